"""Texts made again from ledger entries: what diffs, merges and roll-backs make, and what is named instead."""

import difflib
from base64 import b64encode
from typing import Any

import pytest

from autoresearch.digest import sha256_hex
from autoresearch.judging.ledger import Entry
from autoresearch.judging.texts import TextError, Texts
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.patch_pb2 import PatchSubmission

START = "a = 0\nb = 0\nc = 0\n"
A, B, A2 = (START.replace(*pair) for pair in (("a = 0", "a = 1"), ("b = 0", "b = 1"), ("a = 0", "a = 2")))
AB = A.replace("b = 0", "b = 1")


def merge(base: str, ours: str, theirs: str) -> str | None:
    """Line by line: who changed it wins, unless both did."""
    lines = []
    for was, own, other in zip(base.splitlines(), ours.splitlines(), theirs.splitlines(), strict=True):
        if was not in (own, other) and own != other:
            return None
        lines.append(other if own == was else own)
    return "\n".join(lines) + "\n"


class Told:
    """A ledger's entries as they come; `texts` takes each."""

    def __init__(self, texts: Texts) -> None:
        self.texts, self.seq = texts, 0
        self.take("genesis", commit="c0", source=START, source_sha256=sha256_hex(START.encode()))

    def take(self, kind: str, **body: Any) -> None:
        self.texts.take(Entry(self.seq, "", 0, kind, body))
        self.seq += 1

    def patch(self, name: str, made_on: str, after: str, candidate: str, *, base: int = 0, commit: str = "c0") -> None:
        lines = difflib.unified_diff(made_on.splitlines(True), after.splitlines(True), "a/train.py", "b/train.py")
        payload = PatchSubmission(base_commit=commit, diff="".join(lines).encode()).SerializeToString()
        packed = b64encode(Envelope(payload=payload).SerializeToString()).decode()
        digest = sha256_hex(candidate.encode())
        self.take("patch", patch_id=name, base_generation=base, candidate_sha256=digest, envelope=packed)

    def promote(self, name: str, generation: int, source: str, *, merged: bool = False) -> None:
        text = {"source": source} if merged else {}
        digest = sha256_hex(source.encode())
        self.take(
            "promotion", patch_id=name, generation=generation, commit=f"c{generation}", source_sha256=digest, **text
        )  # fmt: skip

    def roll_back(self, generation: int, source: str, undone: list[int]) -> None:
        digest = sha256_hex(source.encode())
        terms = {"old_generation": undone[0] - 1, "new_generation": undone[0], "undone": undone}
        commit = f"c{generation}"
        self.take("rollback", generation=generation, commit=commit, source=source, source_sha256=digest, **terms)


@pytest.fixture
def told() -> Told:
    return Told(Texts(merge))


def test_two_changes_of_one_base_are_merged(told: Told) -> None:
    told.patch("a", START, A, A)
    told.patch("b", START, B, B)
    told.promote("a", 1, A)
    told.promote("b", 2, AB, merged=True)
    assert told.texts.unmade == 0


def test_a_diff_on_an_older_commit_is_merged_onto_the_base_that_it_is_tested_against(told: Told) -> None:
    told.patch("a", START, A, A)
    told.promote("a", 1, A)
    told.patch("b", START, B, AB, base=1)
    told.promote("b", 2, AB)
    assert told.texts.unmade == 0
    with pytest.raises(TextError, match="do not merge"):
        told.patch("clash", START, A2, A2, base=1)


def test_what_is_named_instead_is_found(told: Told) -> None:
    with pytest.raises(TextError, match="candidate: "):
        told.patch("a", START, A, B)
    with pytest.raises(TextError, match="does not apply"):
        told.patch("a", B, AB, A)
    with pytest.raises(TextError, match="not in the lineage"):
        told.patch("a", START, A, A, commit="elsewhere")
    told.patch("a", START, A, A)
    with pytest.raises(TextError, match="source: "):
        told.promote("a", 1, B, merged=True)


def two_promotions(told: Told) -> None:
    told.patch("a", START, A, A)
    told.patch("b", START, B, B)
    told.promote("a", 1, A)
    told.promote("b", 2, AB, merged=True)


def test_a_roll_back_keeps_what_was_promoted_later(told: Told) -> None:
    two_promotions(told)
    told.roll_back(3, B, [1])
    told.patch("next", B, B.replace("c = 0", "c = 3"), B.replace("c = 0", "c = 3"), base=3, commit="c3")


def test_a_roll_back_that_drops_more_than_it_says_is_found(told: Told) -> None:
    two_promotions(told)
    with pytest.raises(TextError, match="source: "):
        told.roll_back(3, START, [1])


def test_a_roll_back_of_all_that_came_after_is_the_old_source(told: Told) -> None:
    two_promotions(told)
    told.roll_back(3, START, [1, 2])
    with pytest.raises(TextError, match="there is no generation 8"):
        told.roll_back(4, START, [9])


def test_without_merging_the_texts_are_believed_and_counted() -> None:
    told = Told(Texts())
    two_promotions(told)
    assert told.texts.unmade == 1
    told.roll_back(3, B, [1])
    assert told.texts.unmade == 2


def test_what_the_ledger_does_not_hold_ends_what_can_be_made() -> None:
    """A candidate that was merged when it came in, and promoted as it was: its text is nowhere."""
    told = Told(Texts())
    told.patch("a", START, A, A)
    told.promote("a", 1, A)
    told.patch("b", START, B, AB, base=1)
    told.promote("b", 2, AB)
    assert told.texts.unmade == 2
    told.patch("c", AB, AB.replace("c = 0", "c = 1"), "anything", base=2, commit="c2")
    assert told.texts.unmade == 3
