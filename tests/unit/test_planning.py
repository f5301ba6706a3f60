"""What a machine runs next: properties of every choice in worlds that Hypothesis draws, and each rule by itself."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.judging.rule import DEFAULT, SOLO, STRICT, Rule
from coordinator.facts import BaseFacts, KnownLoss, MachineFacts, PatchFacts
from coordinator.planning import Choice, Kind, Planner, Why
from coordinator.policy import DEFAULT_POLICY, HOUR_MS, Canaries, Policy, PolicyError
from coordinator.worth import trials_needed, wanted, worth

NOW = 100 * HOUR_MS
BASES = ("b0", "b1")
IDENTITIES = ("ada", "bea", "cyd", "dan", "eve")
CLASSES = ("H100", "4090", "3060")
NOISE = {"H100": 0.0013, "4090": 0.0020, "3060": 0.0045}
NO_DRAW = 1.0
unhurried = settings(deadline=None, max_examples=50)
MEASURED = BaseFacts(baselines=1, ends_at_ms=NOW + HOUR_MS, ever=True)


def a_patch(patch_id: str = "p", author: str = "author", **fields: Any) -> PatchFacts:
    return replace(PatchFacts(patch_id, author, "b1", 0), **fields)


def voted(
    patch_id: str, votes: Mapping[str, float], classes: Sequence[str] = ("H100",), **fields: Any
) -> PatchFacts:  # fmt: skip
    """An open patch with one finished trial for each vote."""
    return a_patch(
        patch_id,
        **{
            "runs": dict.fromkeys(votes, 1),
            "votes": votes,
            "heard": frozenset(votes),
            "trials": len(votes),
            "log_odds": math.fsum(votes.values()),
            "classes": frozenset(classes),
            **fields,
        },
    )


def a_machine(identity: str, name: str = "", device: str = "H100", **bases: BaseFacts) -> MachineFacts:
    return MachineFacts(name or f"{identity}'s", identity, device, bases or dict.fromkeys(BASES, MEASURED))


def a_planner(
    patches: Sequence[PatchFacts] = (),
    machines: Sequence[MachineFacts] = (),
    rule: Rule = DEFAULT,
    policy: Policy = DEFAULT_POLICY,
) -> Planner:
    planner = Planner(rule, policy)
    planner.set_best("b1", "b0")
    planner.set_noise(NOISE)
    planner.load(patches, machines)
    return planner


def chosen(planner: Planner, machine_id: str, draw: float = NO_DRAW, now_ms: int = NOW) -> str:
    """In short: the patch, "base b1", "known p", or why there is nothing."""
    choice = planner.choose(machine_id, now_ms, draw)
    match choice.kind:
        case Kind.CANDIDATE:
            return choice.patch_id
        case Kind.BASELINE:
            return f"base {choice.base_sha256}"
        case Kind.KNOWN_ANSWER:
            assert choice.known is not None
            return f"known {choice.known.patch_id}"
    assert choice.why is not None
    return choice.why.name


# --- worlds at random ---

identities = st.sampled_from(IDENTITIES)
log_odds = st.floats(-3.0, 1.8)


@st.composite
def patches(draw: st.DrawFn, patch_id: str) -> PatchFacts:
    runs = draw(st.dictionaries(identities, st.integers(1, 3), max_size=4))
    heard = draw(st.sets(st.sampled_from(sorted(runs)))) if runs else set()
    votes = {identity: draw(log_odds) for identity in sorted(heard)}
    parked = draw(st.sampled_from([False, False, True]))
    return PatchFacts(
        patch_id=patch_id,
        author_id=draw(identities),
        base_sha256=draw(st.sampled_from(BASES)),
        submitted_at_ms=draw(st.integers(0, 3)),
        parked=parked,
        doubted=parked and draw(st.booleans()),
        disputed=draw(st.booleans()),
        decided_at_ms=draw(st.sampled_from([0, NOW - HOUR_MS, NOW])),
        log_odds=math.fsum(votes.values()),
        gain_bpb=draw(st.floats(-0.03, 0.03)) if votes else None,
        runs=runs,
        votes=votes,
        trials=draw(st.integers(len(heard), max(len(heard), 24))),
        classes=frozenset(draw(st.sets(st.sampled_from(CLASSES)))) if votes else frozenset(),
        doubtful=frozenset(draw(st.sets(st.sampled_from(CLASSES), max_size=1))),
        heard=frozenset(heard),
        leased=tuple(draw(st.lists(st.tuples(identities, st.sampled_from(CLASSES)), max_size=3))),
        canary=draw(st.booleans()),
    )


@st.composite
def base_facts(draw: st.DrawFn) -> BaseFacts:
    return BaseFacts(
        baselines=draw(st.integers(0, 3)),
        ends_at_ms=draw(st.sampled_from([0, NOW, NOW + 1])),
        runs=draw(st.integers(0, 8)),
        failed=draw(st.integers(0, 2)),
        ever=draw(st.booleans()),
        leased=draw(st.integers(0, 1)),
    )


@st.composite
def machines(draw: st.DrawFn, machine_id: str) -> MachineFacts:
    return MachineFacts(
        machine_id=machine_id,
        identity_id=draw(identities),
        hardware_class=draw(st.sampled_from(CLASSES)),
        bases=draw(st.dictionaries(st.sampled_from(BASES), base_facts())),
        last_trial_at_ms=draw(st.sampled_from([0, NOW])),
        canary=draw(st.booleans()),
    )


def known_losses() -> st.SearchStrategy[list[KnownLoss]]:
    return st.lists(
        st.builds(
            lambda name, author, base, seen: KnownLoss(name, author, f"source of {name}", base, 0.02, frozenset(seen)),
            st.sampled_from(["bad", "worse"]), identities, st.sampled_from(BASES), st.sets(identities),
        ),
        max_size=2, unique_by=lambda loss: loss.patch_id,
    )  # fmt: skip


PATCH_IDS = tuple(f"p{n}" for n in range(6))
MACHINE_IDS = tuple(f"m{n}" for n in range(5))
events = st.one_of(
    st.sampled_from(PATCH_IDS).flatmap(lambda name: st.tuples(st.just("put_patch"), patches(name))),
    st.sampled_from(PATCH_IDS).map(lambda name: ("drop_patch", name)),
    st.sampled_from(MACHINE_IDS).flatmap(lambda name: st.tuples(st.just("put_machine"), machines(name))),
    st.sampled_from(MACHINE_IDS).map(lambda name: ("drop_machine", name)),
    st.sets(identities, max_size=2).map(lambda names: ("set_quarantined", frozenset(names))),
    st.sampled_from([1, 2, 3]).map(lambda count: ("set_min_classes", count)),
    st.sampled_from([NOISE, {"H100": 0.01, "4090": 0.001, "3060": 0.001}]).map(lambda noise: ("set_noise", noise)),
    st.sampled_from([("b1", "b0"), ("b0", "b1"), ("b0", "")]).map(lambda bases: ("set_best", bases)),
    known_losses().map(lambda known: ("set_known_losses", known)),
)
Event = tuple[str, Any]


def played(history: Sequence[Event]) -> Planner:
    """A planner that was told everything as it happened."""
    planner = a_planner()
    for name, value in history:
        getattr(planner, name)(*(value if name == "set_best" else (value,)))
    return planner


def last(history: Sequence[Event], name: str, default: Any) -> Any:
    return next((value for kind, value in reversed(history) if kind == name), default)


def final(history: Sequence[Event]) -> tuple[dict[str, PatchFacts], dict[str, MachineFacts]]:
    """What is true at the end."""
    states: dict[str, PatchFacts] = {}
    fleet: dict[str, MachineFacts] = {}
    for name, value in history:
        if name == "put_patch":
            states[value.patch_id] = value
        elif name == "put_machine":
            fleet[value.machine_id] = value
        elif name == "drop_patch":
            states.pop(value, None)
        elif name == "drop_machine":
            fleet.pop(value, None)
    return states, fleet


def from_scratch(history: Sequence[Event], *, backwards: bool = False) -> Planner:
    """A planner that is told only what is true at the end, all at once."""
    planner = Planner(replace(DEFAULT, min_classes=last(history, "set_min_classes", DEFAULT.min_classes)))
    states, fleet = (list(kind.values())[:: -1 if backwards else 1] for kind in final(history))
    planner.set_quarantined(last(history, "set_quarantined", ()))
    planner.load(states, fleet)
    planner.set_best(*last(history, "set_best", ("b1", "b0")))
    planner.set_noise(last(history, "set_noise", NOISE))
    planner.set_known_losses(last(history, "set_known_losses", ()))
    return planner


def choices(planner: Planner, history: Sequence[Event]) -> list[Choice]:
    draws = (0.0, DEFAULT_POLICY.known_answer_share * 0.9, NO_DRAW)
    return [planner.choose(name, NOW, draw) for name in sorted(final(history)[1]) for draw in draws]


@unhurried
@given(st.lists(events, max_size=30))
def test_what_is_chosen_depends_on_what_is_true_and_not_on_how_it_came_about(history: list[Event]) -> None:
    expected = choices(from_scratch(history), history)
    assert choices(played(history), history) == expected
    assert choices(from_scratch(history, backwards=True), history) == expected


@unhurried
@given(st.lists(events, max_size=30))
def test_every_choice_keeps_the_rules(history: list[Event]) -> None:
    planner = played(history)
    states, fleet = final(history)
    rule = replace(DEFAULT, min_classes=last(history, "set_min_classes", DEFAULT.min_classes))
    quarantined = last(history, "set_quarantined", frozenset())
    for machine in fleet.values():
        choice = planner.choose(machine.machine_id, NOW, NO_DRAW)
        identity = machine.identity_id
        if any(base.failed >= 2 and not base.ever for base in machine.bases.values()):
            assert choice.why is Why.BROKEN
        if choice.kind is Kind.CANDIDATE:
            facts = states[choice.patch_id]
            assert facts.author_id != identity
            assert identity not in {holder for holder, _ in facts.leased}
            base = machine.bases[facts.base_sha256]
            assert base.baselines
            assert base.ends_at_ms > NOW
            if facts.canary and not facts.runs and not machine.canary:
                canaries = {own.identity_id for own in fleet.values() if own.canary and not _broken(own)}
                assert canaries <= quarantined | {facts.author_id}
        if choice.kind is Kind.CANDIDATE and identity not in quarantined:
            believed = [holder for holder, _ in facts.leased if holder not in quarantined]
            assert len(believed) < wanted(facts, rule)
            able = {m.identity_id for m in fleet.values() if not _broken(m)} - {facts.author_id} - quarantined
            chances = {other: facts.runs.get(other, 0) for other in able}
            assert chances[identity] == min(chances.values())
        if identity in quarantined and machine.last_trial_at_ms == NOW:
            assert choice.kind is Kind.NOTHING


def _broken(machine: MachineFacts) -> bool:
    return any(base.failed >= 2 and not base.ever for base in machine.bases.values())


@unhurried
@given(st.lists(events, max_size=20), st.sampled_from(MACHINE_IDS))
def test_choosing_changes_nothing(history: list[Event], machine_id: str) -> None:
    planner = played(history)
    first = choices(planner, history)
    assert choices(planner, history) == first
    planner.drop_machine(machine_id)
    planner.drop_machine(machine_id)  # gone already
    planner.drop_patch("never there")


# --- the order of patches ---


def queue(planner: Planner, identity: str = "cyd", most: int = 100) -> list[str]:
    """What a machine with nothing else to do would be given, one after the other, each lease being held."""
    order = []
    for _ in range(most):
        patch_id = chosen(planner, f"{identity}'s")
        facts = planner.patch(patch_id)
        if facts is None:
            break
        order.append(patch_id)
        planner.put_patch(replace(facts, leased=(*facts.leased, (identity, "H100"))))
    return order


def test_evidence_comes_before_fresh_patches_and_doubts_come_last() -> None:
    patches = [
        a_patch("fresh", "ada", submitted_at_ms=1),
        a_patch("doubted", "ada", parked=True, doubted=True, runs={"dan": 1}, heard=frozenset({"dan"}), trials=1),
        voted("hopeful", {"dan": 0.3}),
        voted("promising", {"dan": 1.6}),
    ]
    assert queue(a_planner(patches, [a_machine("cyd"), a_machine("dan")])) == [
        "promising", "hopeful", "fresh", "doubted"
    ]  # fmt: skip


def test_a_larger_gain_at_the_same_odds_is_worth_more() -> None:
    patches = [voted("small", {"dan": 1.5}, gain_bpb=0.001), voted("large", {"dan": 1.4}, gain_bpb=0.008)]
    assert queue(a_planner(patches, [a_machine("cyd"), a_machine("dan")])) == ["large", "small"]


@given(st.floats(-3.0, 4.0), st.floats(-3.0, 4.0), st.floats(0.0, 0.05), st.floats(0.0, 0.05))
def test_worth_grows_with_the_odds_and_with_the_gain(low: float, high: float, small: float, large: float) -> None:
    low, high, small, large = *sorted((low, high)), *sorted((small, large))
    assert worth(low, small, DEFAULT, DEFAULT_POLICY).per_run > 0.0
    assert worth(low, small, DEFAULT, DEFAULT_POLICY).per_run <= worth(high, large, DEFAULT, DEFAULT_POLICY).per_run


@unhurried
@given(st.lists(st.sampled_from(["ann", "bob", "col"]), min_size=1, max_size=30), st.integers(1, 4))
def test_authors_take_turns(authors: list[str], turn_patches: int) -> None:
    """Whenever patches came: nobody's nth is before anybody's, when that is a turn or more earlier in its row."""
    patches = [a_patch(f"p{n:02}", author, submitted_at_ms=n) for n, author in enumerate(authors)]
    policy = replace(DEFAULT_POLICY, turn_patches=turn_patches)
    order = queue(a_planner(patches, [a_machine("cyd")], policy=policy))
    assert len(order) == len(authors)
    count: Counter[str] = Counter()
    turns = []
    for patch_id in order:
        author = authors[int(patch_id[1:])]
        turns.append(count[author] // turn_patches)
        count[author] += 1
    assert turns == sorted(turns)


def test_a_hundred_patches_of_one_author_do_not_starve_anothers_first() -> None:
    """Not even when all of the hundred have evidence and are ahead."""
    hundred = [voted(f"p{n:03}", {"dan": 1.0}, author_id="ann") for n in range(100)]
    late = a_patch("late", "bob", submitted_at_ms=1000)
    order = queue(a_planner([*hundred, late], [a_machine("cyd"), a_machine("dan")]))
    assert order.index("late") == DEFAULT_POLICY.turn_patches
    fresh = [a_patch(f"p{n:03}", "ann", submitted_at_ms=n) for n in range(100)]
    assert queue(a_planner([*fresh, late], [a_machine("cyd")])).index("late") <= 1


def test_patches_under_way_keep_their_places_in_their_authors_row() -> None:
    """Else an author with many would have all of them under way before anybody else's first."""
    under_way = [a_patch(f"p{n}", "ann", leased=(("dan", "H100"),)) for n in range(3)]
    rest = [a_patch("p3", "ann", submitted_at_ms=1), a_patch("late", "bob", submitted_at_ms=2)]
    assert queue(a_planner([*under_way, *rest], [a_machine("cyd")])) == ["late", "p3"]


# --- who runs what ---


def test_an_author_never_runs_the_own_patch_and_is_told_so() -> None:
    planner = a_planner([a_patch("p", "ada")], [a_machine("ada"), a_machine("bea")])
    assert (chosen(planner, "ada's"), chosen(planner, "bea's")) == ("OWN", "p")


@pytest.mark.parametrize(
    ("canaries", "there", "runs"),
    [
        (Canaries.OFF, True, True),
        (Canaries.PREFER, True, False),
        (Canaries.PREFER, False, True),
        (Canaries.WAIT, True, False),
        (Canaries.WAIT, False, False),
    ],
)
def test_an_unknown_authors_patch_is_left_to_canaries(canaries: Canaries, there: bool, runs: bool) -> None:
    policy = replace(DEFAULT_POLICY, canaries=canaries)
    cat = replace(a_machine("cat"), canary=True)
    fresh = a_patch("fresh", canary=True)
    planner = a_planner([fresh], [a_machine("ada"), *([cat] if there else [])], policy=policy)
    choice = planner.choose("ada's", NOW, NO_DRAW)
    assert (choice.kind is Kind.CANDIDATE) is runs
    assert choice.why is (None if runs else Why.CANARY)
    waits = planner.first_run("fresh")
    assert bool(waits) is not runs
    assert not waits or waits.endswith(f"is for a canary machine; {1 if there else 'none'} at work now")
    if there:
        assert planner.choose("cat's", NOW, NO_DRAW).patch_id == "fresh"
    planner.put_patch(replace(fresh, leased=(("cat", "H100"),)))
    assert planner.first_run("fresh") == ""  # it runs
    planner.put_patch(replace(fresh, runs={"cat": 1}))  # however it ended, and whether it was disturbed
    assert planner.choose("ada's", NOW, NO_DRAW).patch_id == "fresh"


def test_canaries_that_may_not_or_do_not_count_are_not_waited_for() -> None:
    for who, author, held in (("cat", "cat", set()), ("cat", "author", {"cat"})):
        cat = replace(a_machine(who), canary=True)
        planner = a_planner([a_patch("fresh", author, canary=True)], [a_machine("ada"), cat])
        planner.set_quarantined(held)
        assert planner.choose("ada's", NOW, NO_DRAW).patch_id == "fresh"


def test_canaries_run_what_others_run_too() -> None:
    cat = replace(a_machine("cat"), canary=True)
    planner = a_planner([a_patch("known"), a_patch("new", "other", canary=True, submitted_at_ms=1)], [cat])
    assert planner.choose("cat's", NOW, NO_DRAW).patch_id == "known"  # turns as ever


def test_nobody_runs_a_patch_again_before_everybody_at_hand_had_a_chance() -> None:
    patch = voted("p", {"bea": 0.5, "cyd": 0.5}, ("H100", "4090"))
    three = [a_machine("bea"), a_machine("cyd", device="4090"), a_machine("dan", device="3060")]
    planner = a_planner([patch], three)
    assert (chosen(planner, "bea's"), chosen(planner, "dan's")) == ("ENOUGH", "p")
    planner.put_patch(voted("p", dict.fromkeys(("bea", "cyd", "dan"), 0.5), CLASSES, leased=()))
    assert [chosen(planner, f"{who}'s") for who in ("bea", "cyd", "dan")] == ["p", "p", "p"]
    planner.put_machine(a_machine("eve"))
    assert [chosen(planner, f"{who}'s") for who in ("bea", "eve")] == ["ENOUGH", "p"]


def test_a_second_trial_by_the_same_identity_comes_after_fresh_patches() -> None:
    voted_on = voted("p", dict.fromkeys(("bea", "cyd", "dan"), 0.5), CLASSES)
    planner = a_planner([voted_on, a_patch("fresh")], [a_machine(who) for who in ("bea", "cyd", "dan")])
    assert chosen(planner, "bea's") == "fresh"
    planner.drop_patch("fresh")
    assert chosen(planner, "bea's") == "p"


def test_two_identities_do_not_run_a_patch_over_and_over() -> None:
    """They could not promote it: it waits for a third."""
    patch = voted("p", {"bea": 1.0, "cyd": 1.0})
    planner = a_planner([patch], [a_machine("bea"), a_machine("cyd")])
    assert chosen(planner, "bea's") == "ENOUGH"
    solo = a_planner([voted("p", {"bea": 1.0})], [a_machine("bea")], rule=SOLO)
    assert chosen(solo, "bea's") == "p"


def test_an_identity_at_the_cap_everywhere_cannot_change_a_verdict() -> None:
    votes = {"bea": -2.9, "cyd": 1.79, "dan": 1.79}
    three = [a_machine(who) for who in votes]
    assert chosen(a_planner([voted("p", votes, CLASSES)], three), "bea's") == "p"  # its own vote may rise
    assert chosen(a_planner([voted("p", votes, CLASSES)], three, rule=STRICT), "bea's") == "ENOUGH"


def test_a_disturbed_trial_is_repeated_in_turn() -> None:
    patch = a_patch("p", runs={"bea": 1})
    assert chosen(a_planner([patch], [a_machine("bea")]), "bea's") == "p"
    assert chosen(a_planner([patch], [a_machine("bea"), a_machine("cyd")]), "bea's") == "ENOUGH"


def test_a_doubt_is_offered_once_to_another_identity() -> None:
    doubted = a_patch("p", "ada", parked=True, doubted=True, runs={"bea": 1}, heard=frozenset({"bea"}), trials=1)
    fleet = [a_machine("ada"), a_machine("bea"), a_machine("bea", "bea's other"), a_machine("cyd")]
    planner = a_planner([doubted], fleet)
    assert [m.machine_id for m in fleet if chosen(planner, m.machine_id) == "p"] == ["cyd's"]
    planner.put_patch(replace(doubted, leased=(("cyd", "H100"),)))
    planner.put_machine(a_machine("dan"))
    assert chosen(planner, "dan's") == "NO_PATCH"


@pytest.mark.parametrize(
    ("odds", "votes", "classes", "most"),
    [
        (0.0, 0, 0, 1), (0.69, 1, 1, 1), (0.7, 1, 1, 2), (2.0, 2, 2, 2), (3.4, 2, 3, 1), (3.4, 2, 1, 2), (4.7, 3, 3, 1),
        (4.7, 2, 2, 1),
    ],
)  # fmt: skip
def test_never_more_under_way_than_could_change_the_verdict(odds: float, votes: int, classes: int, most: int) -> None:
    facts = a_patch(
        runs={"x": 1}, votes={f"i{n}": odds / votes for n in range(votes)} if votes else {}, log_odds=odds,
        classes=frozenset(CLASSES[:classes]), trials=votes,
    )  # fmt: skip
    assert wanted(facts, DEFAULT) == most
    limit = DEFAULT.max_trials_ahead if odds >= DEFAULT.upper else DEFAULT.max_trials
    assert wanted(replace(facts, trials=limit - 1), DEFAULT) == 1
    assert wanted(replace(facts, trials=limit), DEFAULT) == 0
    assert wanted(replace(facts, trials=DEFAULT.max_trials - 1), DEFAULT) == 1


@given(st.floats(-0.1, 6.0), st.integers(0, 5), st.integers(0, 3), st.integers(0, 24))
def test_all_that_may_be_under_way_can_be_needed(odds: float, votes: int, classes: int, trials: int) -> None:
    """If all but one of them turn out as well as they can, the patch has not won: the last one could decide."""
    facts = a_patch(
        log_odds=odds, votes={f"i{n}": 0.0 for n in range(votes)}, classes=frozenset(CLASSES[:classes]), trials=trials
    )
    most = wanted(facts, DEFAULT)
    assert most <= (DEFAULT.max_trials_ahead if odds >= DEFAULT.upper else DEFAULT.max_trials) - trials
    if most > 1:
        others = most - 1
        luckiest = odds + others * math.log(DEFAULT.cap)
        assert (
            luckiest < DEFAULT.upper
            or votes + others < DEFAULT.min_identities
            or classes + others < DEFAULT.min_classes
        )
        assert trials_needed(facts, DEFAULT) >= most


# --- hardware ---


def test_noisy_cards_screen_and_leave_what_looks_good_to_quieter_ones() -> None:
    fleet = [a_machine("bea", device="3060"), a_machine("cyd", device="4090"), a_machine("dan"), a_machine("fay")]
    good, fresh = voted("good", {"dan": 1.5}, CLASSES), a_patch("fresh")
    planner = a_planner([good, fresh], fleet)
    assert (chosen(planner, "bea's"), chosen(planner, "cyd's")) == ("fresh", "good")
    planner.put_patch(voted("good", {"dan": 1.5}, ("H100", "4090")))  # its class has not spoken yet
    assert chosen(planner, "bea's") == "good"
    planner.put_patch(good)
    for gone in ("cyd's", "fay's"):
        planner.drop_machine(gone)  # no quiet card is left that could confirm it
    assert chosen(planner, "bea's") == "fresh"  # still it finds out more about another one ...
    planner.drop_patch("fresh")
    assert chosen(planner, "bea's") == "good"  # ... if there is another one


def test_which_cards_are_noisy_does_not_change_with_who_is_at_home() -> None:
    good, fresh = voted("good", {"dan": 1.5}, CLASSES), a_patch("fresh")
    planner = a_planner([good, fresh], [a_machine("bea", device="3060"), a_machine("cyd", device="4090")])
    assert chosen(planner, "bea's") == "fresh"
    planner.drop_machine("cyd's")
    assert chosen(planner, "bea's") == "good"  # as far as it is known there are but such cards
    planner.set_around({"3060": 1, "4090": 1, "H100": 1})
    assert chosen(planner, "bea's") == "fresh"


def test_a_class_that_is_missing_comes_first() -> None:
    patches = [
        voted("there", {"dan": 1.30}, ("4090",), submitted_at_ms=0),
        voted("missing", {"dan": 1.25}, ("H100",), submitted_at_ms=1),
    ]
    fleet = [a_machine("bea", device="4090"), a_machine("cyd", device="H100"), a_machine("dan")]
    planner = a_planner(patches, fleet)
    assert (chosen(planner, "bea's"), chosen(planner, "cyd's")) == ("missing", "there")


def test_the_last_votes_are_left_to_the_classes_that_are_missing() -> None:
    """One vote is missing and one class: another vote of a known class would be wasted."""
    ahead = voted("p", {"dan": 1.7, "eve": 1.7}, ("H100", "4090"))
    fleet = [a_machine("bea"), a_machine("cyd", device="3060"), a_machine("dan"), a_machine("eve", device="4090")]
    planner = a_planner([ahead], fleet)
    assert (chosen(planner, "bea's"), chosen(planner, "cyd's")) == ("ENOUGH", "p")
    planner.drop_machine("cyd's")
    assert chosen(planner, "bea's") == "p"  # nobody is there for that class: a vote is better than none
    planner.put_patch(voted("p", {"dan": 1.7, "eve": 1.7, "fay": 1.7}, ("H100", "4090")))
    assert chosen(planner, "bea's") == "ENOUGH"  # only the class is missing


def test_a_dispute_comes_first_on_quiet_cards_of_others() -> None:
    disputed = voted("disputed", {"dan": 1.7, "eve": -2.9}, parked=True, disputed=True)
    fleet = [a_machine("bea", device="3060"), a_machine("cyd"), a_machine("dan"), a_machine("fay")]
    planner = a_planner([disputed, a_patch("fresh")], fleet)
    assert chosen(planner, "cyd's") == "disputed"
    assert chosen(planner, "dan's") == "fresh"  # its word is known
    assert chosen(planner, "bea's") != "disputed"
    planner.put_patch(replace(disputed, leased=(("cyd", "H100"),)))
    assert chosen(planner, "fay's") == "fresh"  # one voice at a time
    planner.put_patch(replace(disputed, disputed=False))
    assert chosen(planner, "fay's") == "fresh"


def test_one_that_is_ahead_but_crashed_on_a_class_waits_for_that_class() -> None:
    ahead = voted("p", {"dan": 1.7, "eve": 1.7, "fay": 1.7}, ("H100", "4090", "A100"), doubtful=frozenset({"3060"}))
    planner = a_planner([ahead], [a_machine("bea"), a_machine("cyd", device="3060")])
    assert (chosen(planner, "bea's"), chosen(planner, "cyd's")) == ("ENOUGH", "p")


def test_one_that_looks_worse_on_a_class_waits_for_that_class_or_one_that_has_not_spoken() -> None:
    ahead = voted(
        "p", {"dan": 1.7, "eve": 1.7, "fay": 1.7, "gus": -1.6}, ("H100", "4090", "A100", "3060"),
        log_odds=5.1, doubtful=frozenset({"3060"}),
    )  # fmt: skip
    fleet = [a_machine("bea"), a_machine("cyd", device="3060"), a_machine("ida", device="3090")]
    planner = a_planner([ahead], fleet, rule=replace(DEFAULT, min_classes=5))
    assert [chosen(planner, f"{who}'s") for who in ("bea", "cyd", "ida")] == ["ENOUGH", "p", "p"]
    planner.drop_machine("cyd's")
    assert chosen(planner, "bea's") == "p"  # nobody is there who could settle it: it ends with the trials


def test_more_classes_are_heard_than_a_verdict_needs() -> None:
    hear = DEFAULT_POLICY.classes_to_hear
    assert [hear(3, there) for there in (0, 2, 4, 9)] == [1, 2, 4, 5]
    assert (hear(7, 9), hear(1, 9)) == (7, 1)


# --- baselines ---


@pytest.mark.parametrize(
    ("runs", "baselines", "needed"),
    [(0, 0, True), (0, 1, False), (2, 1, False), (3, 1, True), (6, 2, False), (7, 2, True), (900, 6, False)],
)
def test_baselines_grow_with_the_square_root_of_the_candidates(runs: int, baselines: int, needed: bool) -> None:
    machine = a_machine("bea", b1=replace(MEASURED, baselines=baselines, runs=runs))
    planner = a_planner([a_patch("p")], [machine], rule=replace(DEFAULT, own_trials=0))
    assert chosen(planner, "bea's") == ("base b1" if needed else "p")


@pytest.mark.parametrize(("runs", "baselines", "needed"), [(2, 1, False), (3, 1, True), (7, 2, False), (900, 2, False)])
def test_two_baselines_are_enough_where_candidates_say_where_the_level_is(
    runs: int, baselines: int, needed: bool
) -> None:
    machine = a_machine("bea", b1=replace(MEASURED, baselines=baselines, runs=runs))
    assert chosen(a_planner([a_patch("p")], [machine]), "bea's") == ("base b1" if needed else "p")


def test_stale_baselines_are_measured_anew() -> None:
    planner = a_planner([a_patch("p")], [a_machine("bea", b1=replace(MEASURED, ends_at_ms=NOW, baselines=6))])
    assert chosen(planner, "bea's", now_ms=NOW - 1) == "p"
    assert chosen(planner, "bea's", now_ms=NOW) == "base b1"


def test_while_a_baseline_is_under_way_its_machine_runs_nothing_on_that_base() -> None:
    machine = a_machine("bea", b1=BaseFacts(leased=1), b0=MEASURED)
    assert chosen(a_planner([a_patch("p")], [machine]), "bea's") == "ENOUGH"
    assert chosen(a_planner([a_patch("p"), a_patch("q", base_sha256="b0")], [machine]), "bea's") == "q"


def test_a_machine_with_nothing_to_do_measures_the_best() -> None:
    planner = a_planner([], [a_machine("bea", b0=MEASURED), a_machine("cyd")])
    assert (chosen(planner, "bea's"), chosen(planner, "cyd's")) == ("base b1", "NO_PATCH")


def test_a_promotion_is_audited_at_once_by_those_who_measured_both() -> None:
    """However much else there is to do; but not by everybody."""
    names = [f"i{n}" for n in range(DEFAULT_POLICY.audit_identities + 1)]
    urgent = [voted(f"p{n}", {"dan": 1.7}, base_sha256="b0") for n in range(9)]
    fleet = [a_machine(name, b0=MEASURED) for name in names]
    planner = a_planner(urgent, [*fleet, a_machine("new", b1=MEASURED, b0=BaseFacts())])
    for name in names[:-1]:
        assert chosen(planner, f"{name}'s") == "base b1"
        planner.put_machine(a_machine(name, b0=MEASURED, b1=BaseFacts(leased=1)))
    assert chosen(planner, f"{names[-1]}'s") in {patch.patch_id for patch in urgent}


@pytest.mark.parametrize(("failed", "ever", "broken"), [(1, False, False), (2, False, True), (5, True, False)])
def test_a_machine_that_never_completed_what_others_run_gets_nothing(failed: int, ever: bool, broken: bool) -> None:
    machine = a_machine("bea", b1=BaseFacts(failed=failed, ever=ever), b0=MEASURED)
    planner = a_planner([a_patch("p", base_sha256="b0")], [machine])
    assert (chosen(planner, "bea's") == "BROKEN") == broken


# --- second looks ---


def parked(patch_id: str, odds: float, **fields: Any) -> PatchFacts:
    return voted(patch_id, {"dan": odds}, parked=True, gain_bpb=fields.pop("gain_bpb", 0.0), **fields)


def test_an_idle_machine_looks_again_at_the_best_parked_patch_that_has_rested() -> None:
    planner = a_planner([parked("low", -0.9), parked("high", -0.3)], [a_machine("bea"), a_machine("dan")])
    assert chosen(planner, "bea's") == "high"
    planner.put_patch(parked("high", -0.3, decided_at_ms=NOW))
    assert chosen(planner, "bea's") == "low"
    planner.put_patch(a_patch("fresh"))
    assert chosen(planner, "bea's") == "fresh"


def test_a_hopeless_patch_gets_no_second_look() -> None:
    assert chosen(a_planner([parked("p", -2.9)], [a_machine("bea"), a_machine("dan")]), "bea's") == "NO_PATCH"


# --- trust ---

LOSS = KnownLoss("bad", "ann", "source of bad", "b1", 0.02)


def test_now_and_then_a_known_answer_takes_a_candidates_place() -> None:
    planner = a_planner([a_patch("p")], [a_machine("bea"), a_machine("ann"), a_machine("eve", b1=BaseFacts())])
    planner.set_known_losses([LOSS])
    due = DEFAULT_POLICY.known_answer_share / 2
    assert (chosen(planner, "bea's", due), chosen(planner, "bea's")) == ("known bad", "p")
    assert chosen(planner, "ann's", due) == "p"  # its own patch
    assert chosen(planner, "eve's", due) == "base b1"  # it has no baseline to compare with
    planner.set_known_losses([replace(LOSS, seen=frozenset({"bea"}))])
    assert chosen(planner, "bea's", due) == "p"
    planner.set_known_losses([replace(LOSS, spared=frozenset({"H100"}))])
    assert chosen(planner, "bea's", due) == "p"  # on her card it may help
    planner.drop_patch("p")
    assert chosen(planner, "eve's", due) == "base b1"
    planner.set_known_losses([LOSS])
    assert chosen(planner, "bea's", due) == "NO_PATCH"  # nobody's electricity is spent on it alone


@given(st.floats(0.0, 1.0))
def test_known_answers_take_their_share_of_draws(draw: float) -> None:
    planner = a_planner([a_patch("p")], [a_machine("bea")])
    planner.set_known_losses([LOSS, replace(LOSS, patch_id="worse")])
    known = chosen(planner, "bea's", draw).startswith("known")
    assert known == (draw < DEFAULT_POLICY.known_answer_share)


def test_nobody_answers_twice_against_the_same_baselines() -> None:
    planner = a_planner([a_patch("p")], [a_machine("bea"), a_machine("cyd")])
    planner.set_known_losses([replace(LOSS, seen=frozenset({"bea"})), replace(LOSS, patch_id="worse")])
    due = DEFAULT_POLICY.known_answer_share / 2
    assert (chosen(planner, "bea's", due), chosen(planner, "cyd's", due)[:5]) == ("p", "known")
    planner.put_patch(parked("bad", -2.9, gain_bpb=-0.02))
    assert chosen(planner, "bea's", due) == "bad"  # confirming another is no test of her


def test_without_known_answers_the_worst_parked_patch_is_confirmed_by_others() -> None:
    bad = parked("bad", -2.9, gain_bpb=-0.02)
    planner = a_planner([a_patch("p"), bad, parked("poor", -2.9, gain_bpb=-0.005)], [a_machine("bea")])
    due = DEFAULT_POLICY.known_answer_share / 2
    assert (chosen(planner, "bea's", due), chosen(planner, "bea's")) == ("bad", "p")
    planner.put_patch(replace(bad, leased=(("eve", "H100"),)))
    assert chosen(planner, "bea's", due) == "p"


def test_in_quarantine_a_machine_runs_a_trial_an_hour_that_nobody_counts_on() -> None:
    patch = a_patch("p")
    planner = a_planner([patch], [a_machine("bea"), a_machine("cyd")])
    planner.set_quarantined({"bea"})
    assert chosen(planner, "bea's") == "p"
    planner.put_patch(replace(patch, leased=(("bea", "H100"),)))
    assert chosen(planner, "cyd's") == "p"  # as if it were not under way
    planner.put_machine(replace(a_machine("bea"), last_trial_at_ms=NOW - HOUR_MS + 1))
    assert chosen(planner, "bea's") == "QUARANTINED"
    planner.set_known_losses([LOSS])
    assert chosen(planner, "bea's", now_ms=NOW + 1) == "known bad"
    planner.set_quarantined(())
    assert chosen(planner, "cyd's") == "NO_PATCH" or chosen(planner, "cyd's") == "ENOUGH"


@pytest.mark.parametrize(
    "fields",
    [{"known_answer_share": 1.5}, {"useful_share": 0.0}, {"turn_patches": 0}, {"screen_ratio": 0.0},
     {"first_baselines": 7}, {"window": -0.1}],
)  # fmt: skip
def test_a_policy_that_cannot_be_used_says_so(fields: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        replace(DEFAULT_POLICY, **fields)
