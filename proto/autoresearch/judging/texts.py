"""The texts of a swarm, made again from its ledger: what each patch makes of its base, what each promotion and each
roll-back makes of the best. Every digest that an entry names must be that of the text that comes out. Pure.

Where two changes were merged, the merge is somebody else's to do (`merge`: git's, in who audits). Where nobody can, the
text is believed by its digest, and counted; once the best itself cannot be made, nothing after it can. Left out: what a
candidate must be to be taken, and commits.
"""

import zlib
from base64 import b64decode
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from autoresearch.admission_errors import AdmissionError
from autoresearch.digest import sha256_hex
from autoresearch.judging import spans
from autoresearch.judging.ledger import Entry
from autoresearch.unified_diff import apply_patch
from autoresearch.v1.envelope_pb2 import Envelope
from autoresearch.v1.patch_pb2 import PatchSubmission

Merge = Callable[[str, str, str], str | None]  # base, ours, theirs; None: they do not merge


class TextError(Exception):
    """An entry that names another text than its changes make."""


class _UnmadeError(Exception):
    """It takes a merge, which cannot be made here."""


class _Best(NamedTuple):
    generation: int
    commit: str
    source_sha256: str
    undone: tuple[int, ...]  # generations that it takes back


class _Change(NamedTuple):
    """What a patch does, with digests of the source that it is tested against and of the one that it was made on."""

    tested_sha256: str
    base_sha256: str
    diff: bytes  # compressed


class Texts:
    """Takes a ledger's entries, from the first. `merge`: None where merges cannot be made."""

    def __init__(self, merge: Merge | None = None) -> None:
        self.unmade = 0  # entries whose text was believed by its digest
        self._merge = merge
        self._bests: list[_Best] = []
        self._sources: dict[str, bytes] = {}  # text of the bests by digest, compressed
        self._patches: dict[str, _Change] = {}

    def take(self, entry: Entry) -> None:
        """The next entry, whose form and signatures were checked before.

        Raises:
            TextError: it names a text that its changes do not make.
        """
        check = _TAKE.get(entry.kind)
        if check is None or self._lost:
            self.unmade += check is not None
            return
        try:
            check(self, entry.body)
        except _UnmadeError:
            self.unmade += 1
        except AdmissionError as error:
            raise TextError(f"its diff does not apply to its base: {error}") from error

    @property
    def _lost(self) -> bool:
        """The text of the best is not known."""
        return bool(self._bests) and self._bests[-1].source_sha256 not in self._sources

    def _genesis(self, body: Mapping[str, Any]) -> None:
        self._crown(body, 0, body["source"])

    def _patch(self, body: Mapping[str, Any]) -> None:
        submission = PatchSubmission.FromString(Envelope.FromString(b64decode(body["envelope"])).payload)
        base = next((own for own in reversed(self._bests) if own.commit == submission.base_commit), None)
        tested = next((own for own in self._bests if own.generation == body["base_generation"]), None)
        if base is None or tested is None:
            raise TextError("its base is not in the lineage")
        change = _Change(tested.source_sha256, base.source_sha256, zlib.compress(submission.diff))
        self._patches[body["patch_id"]] = change
        _check("candidate", self._candidate(change), body["candidate_sha256"])

    def _candidate(self, change: _Change) -> str:
        base = self._text(change.base_sha256)
        applied = apply_patch(zlib.decompress(change.diff), base)
        return self._merged(base, self._text(change.tested_sha256), applied)

    def _promotion(self, body: Mapping[str, Any]) -> None:
        change, text = self._patches[body["patch_id"]], body.get("source")
        best = self._text(self._bests[-1].source_sha256)
        try:
            made = self._merged(self._text(change.tested_sha256), best, self._candidate(change))
            _check("source", made, body["source_sha256"])
            text = made
        finally:
            self._crown(body, body["generation"], text)

    def _rollback(self, body: Mapping[str, Any]) -> None:
        old, new = (self._text(self._of(body[f"{which}_generation"])) for which in ("old", "new"))
        best, digest = self._text(self._bests[-1].source_sha256), body["source_sha256"]
        before = spans.held((own.generation, own.undone) for own in self._bests)
        standing = before[self._bests[-1].generation]
        ground = spans.ground(before, standing, body["old_generation"])
        self._crown(body, body["generation"], body["source"], tuple(body["undone"]))
        if standing - {*body["undone"]} != before[ground] or digest != self._of(ground):
            _check("source", self._merged(new, best, old), digest)

    def _of(self, generation: int) -> str:
        found = next((own for own in self._bests if own.generation == generation), None)
        if found is None:
            raise TextError(f"there is no generation {generation}")
        return found.source_sha256

    def _merged(self, base: str, ours: str, theirs: str) -> str:
        if ours == base:
            return theirs
        if theirs == base:
            return ours
        if self._merge is None:
            raise _UnmadeError
        merged = self._merge(base, ours, theirs)
        if merged is None:
            raise TextError("its changes do not merge onto what it names")
        return merged

    def _crown(self, body: Mapping[str, Any], generation: int, text: str | None, undone: tuple[int, ...] = ()) -> None:
        self._bests.append(_Best(generation, body["commit"], body["source_sha256"], undone))
        if text is not None:
            self._sources[body["source_sha256"]] = zlib.compress(text.encode())

    def _text(self, digest: str) -> str:
        return zlib.decompress(self._sources[digest]).decode()


def _check(what: str, made: str, named: str) -> None:
    own = sha256_hex(made.encode())
    if own != named:
        raise TextError(f"{what}: {own[:12]} comes out of base and changes, and the entry names {named[:12]}")


_TAKE: Mapping[str, Callable[[Texts, Mapping[str, Any]], None]] = {
    "genesis": Texts._genesis,
    "patch": Texts._patch,
    "promotion": Texts._promotion,
    "rollback": Texts._rollback,
}
