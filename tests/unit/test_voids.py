"""Invalid results, and what operators ordered: values in, values out."""

from hypothesis import given
from hypothesis import strategies as st

from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Trial, Void
from autoresearch.judging.orders import Orders
from autoresearch.judging.voids import Voids


def trial(identity: str, entry: int, at_ms: int = 0) -> Trial:
    return Trial(
        f"r{entry}", "", identity, "m", "H100", "s", "p", "completed", 1.0, 1, disturbed=False, accepted_at_ms=at_ms,
        entry=entry,
    )  # fmt: skip


TRIALS = [trial(identity, entry, at_ms=10 * entry) for entry, identity in enumerate("ababab")]
voids = st.builds(
    Void,
    entry=st.integers(0, 8),
    identity_id=st.sampled_from("abc"),
    result_sha256=st.sampled_from(["", "r1", "r2"]),
    since_ms=st.sampled_from([0, 20, 40]),
    reason=st.just("why"),
    restored=st.sampled_from([0, 9]),
)


@given(st.lists(voids, max_size=4, unique_by=lambda void: void.entry))
def test_a_trial_counts_unless_an_invalidation_in_force_covers_it(known: list[Void]) -> None:
    counting = Voids(known).counting(TRIALS)
    for own in TRIALS:
        covered = any(
            not void.restored
            and void.identity_id == own.identity_id
            and own.entry < void.entry
            and (own.result_sha256 == void.result_sha256 if void.result_sha256 else own.accepted_at_ms >= void.since_ms)
            for void in known
        )
        assert (own in counting) is not covered
    marked = Voids(known).marked(TRIALS)
    assert [own.entry for own in marked] == [own.entry for own in TRIALS]
    assert {own.entry for own in marked if not own.disturbed} == {own.entry for own in counting}


def test_then_is_what_was_known_then() -> None:
    known = Voids([Void(5, "a", "", 0, "why", restored=9)])
    assert known.in_force == ()
    assert [known.before(entry).in_force for entry in (5, 6, 9, 10)] == [(), (5,), (5,), ()]


def entry(seq: int, kind: str, **body: object) -> Entry:
    return Entry(seq, "", 0, kind, {"reason": "", **body})


def ordered(seq: int, action: str, subject: str = "ann", **more: object) -> Entry:
    return entry(seq, "instruction", action=action, subject=subject, **more)


def quarantined(seq: int, who: str = "ann", **more: object) -> Entry:
    return entry(seq, "quarantine", identity_id=who, **more)


def test_what_is_ordered_stands_right_after_the_order() -> None:
    orders = Orders()
    orders.take(ordered(1, "quarantine"))
    assert "orders is missing" in orders.objection(entry(2, "result", identity_id="ann"))
    orders.take(ordered(3, "quarantine"))
    assert orders.objection(quarantined(4, instruction=3, with_ban=False)) == ""
    assert "no instruction before it" in orders.objection(quarantined(5, instruction=3, with_ban=False))
    assert orders.objection(quarantined(6)) == ""  # by the evidence


def test_a_ban_that_excludes_results_brings_a_quarantine_that_ends_with_it() -> None:
    orders = Orders()
    orders.take(ordered(1, "ban", exclude_results=True))
    held = quarantined(2, instruction=1, with_ban=True)
    assert orders.objection(held) == ""
    orders.changed(held)
    orders.take(ordered(3, "lift_ban"))
    assert "the reinstatement of ann" in orders.objection(entry(4, "result"))
    plain = Orders()
    plain.take(ordered(1, "ban"))
    assert plain.objection(entry(2, "result")) == ""


def test_lifting_what_the_evidence_gave_is_vouching_and_a_quarantine_ends_it() -> None:
    orders = Orders()
    orders.changed(quarantined(1))
    orders.changed(entry(2, "reinstatement", identity_id="ann", instruction=1))
    assert orders.vouched == {"ann"}
    orders.changed(quarantined(3, instruction=2, with_ban=False))
    assert orders.vouched == set()
    orders.changed(entry(4, "reinstatement", identity_id="ann", instruction=3))
    assert orders.vouched == set()


def test_a_roll_back_is_ordered_by_its_generation() -> None:
    orders = Orders()
    orders.take(ordered(7, "roll_back", subject="p", generation=3))
    assert orders.rolls_back(7, 2, 3)
    assert not orders.rolls_back(7, 3, 4)
    assert not orders.rolls_back(8, 2, 3)
    assert not orders.fell(7)
    orders.take(ordered(9, "restore", subject="p", restores=7))
    assert orders.fell(7)
