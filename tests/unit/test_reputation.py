"""Reputations that are kept say what a review from nothing says, however they came about."""

import random  # noqa: TID251  # always seeded: the same worlds every time

from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.judging.evidence import Row
from autoresearch.judging.reputation import Reputations
from autoresearch.judging.reviewing import OWN_HISTORY
from autoresearch.judging.reviewing import history as judged_by
from autoresearch.judging.trust import DecidedPatch, KnownAnswer, Quarantine, Suspicion, review
from autoresearch.judging.verdict import DEFAULT

SIGMA = {"H100": 0.0013, "A100": 0.0015, "4090": 0.0020}
NAMES = ("ann", "bob", "cem", "dan", "zed", "yan")
unhurried = settings(deadline=None, max_examples=40)


def patch(chance: random.Random, liars: dict[str, float]) -> DecidedPatch:
    """A patch that some ran, with the lies of the liars."""
    gain_bpb, rows = chance.choice([0.0, 0.003, 0.006]), []
    for name in chance.sample(NAMES, chance.randint(2, len(NAMES))):
        hardware_class = list(SIGMA)[NAMES.index(name) % 3]
        seen = gain_bpb + liars.get(name, 0.0) + chance.gauss(0.0, SIGMA[hardware_class])
        crashed = chance.random() < 0.1
        rows.append(Row(name, "m", hardware_class, () if crashed else (1.0 - seen,), (1.0, 1.0), int(crashed)))
    return DecidedPatch(f"base {chance.randrange(6)}", tuple(rows), SIGMA, DEFAULT)


@unhurried
@given(seed=st.integers(0, 10_000), patches=st.integers(1, 40), most=st.sampled_from([5, 500]))
def test_what_is_kept_is_what_a_review_from_nothing_finds(seed: int, patches: int, most: int) -> None:
    chance = random.Random(seed)
    liars = chance.choice([{}, {"zed": 0.02}, {"zed": 0.02, "yan": -0.02}])
    kept = Reputations(SIGMA, most_patches=most)
    history: list[DecidedPatch] = []
    answers: dict[str, list[KnownAnswer]] = {}
    held: dict[str, Quarantine] = {}
    for _ in range(patches):
        history.append(patch(chance, liars))
        kept.add(history[-1])
        if chance.random() < 0.2:
            name = chance.choice(NAMES)
            answer = KnownAnswer(chance.choice([-0.01, 0.0]), 2, 0.002)
            answers.setdefault(name, []).append(answer)
            kept.answered(name, answer)
        recent = [(str(at), at) for at in range(len(history))][-most:]
        ran_by = {
            name: [at for at, one in enumerate(history) if any(row.identity == name for row in one.rows)]
            for name in held
        }
        own = {str(at): at for numbers in ran_by.values() for at in numbers[-OWN_HISTORY:]}
        chosen = [history[at] for _, at in judged_by(reversed(recent), own, len(history))]
        reputations, changes = review(chosen, answers, held, SIGMA)
        for change in changes:
            if change.quarantine is None:
                del held[change.identity]
            else:
                held[change.identity] = change.quarantine
        assert kept.review() == changes
        assert kept.held == held
        ran = {row.identity for decided in chosen for row in decided.rows} | answers.keys()
        assert {name: own for name, own in kept.reputations().items() if name in ran} == reputations


@unhurried
@given(seed=st.integers(0, 10_000), patches=st.integers(1, 30), taken_back=st.sets(st.integers(0, 29), max_size=8))
def test_what_is_taken_back_is_as_if_it_had_never_been_said(seed: int, patches: int, taken_back: set[int]) -> None:
    chance = random.Random(seed)
    decided = [patch(chance, {"zed": 0.02}) for _ in range(patches)]
    kept, expected = Reputations(SIGMA), Reputations(SIGMA)
    numbers = [kept.add(own) for own in decided]
    for at in sorted(taken_back & set(range(patches))):
        kept.take_back(numbers[at])
        kept.take_back(numbers[at])  # a second time it is gone already
    for at, own in enumerate(decided):
        if at not in taken_back:
            expected.add(own)
    assert kept.review() == expected.review()
    assert kept.held == expected.held
    assert kept.reputations().items() >= expected.reputations().items()


def test_a_persons_decision_holds_and_everybody_is_measured_without_that_one() -> None:
    chance = random.Random(1)
    kept = Reputations(SIGMA)
    for _ in range(20):
        kept.add(patch(chance, {}))
    kept.hold(Quarantine("ann", Suspicion.OPERATOR, 0.0, "asked to"))
    assert kept.review() == ()
    assert set(kept.held) == {"ann"}
    before = kept.reputations()["bob"].deviations
    assert 0 < before <= 20


def test_another_noise_has_everybody_judged_anew() -> None:
    chance = random.Random(2)
    kept = Reputations(dict.fromkeys(SIGMA, 0.5))
    for _ in range(30):
        kept.add(patch(chance, {"zed": 0.02}))
    assert kept.review() == ()  # with so much noise nobody looks odd
    kept.set_noise(SIGMA)
    assert [change.identity for change in kept.review()] == ["zed"]
