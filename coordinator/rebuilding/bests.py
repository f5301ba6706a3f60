"""What entries that move the best make: the start, promotions and roll-backs, each with its commit."""

from collections.abc import Sequence
from dataclasses import fields, replace

from autoresearch.digest import sha256_hex
from autoresearch.judging.ledger import Entry
from autoresearch.judging.model import Best
from autoresearch.unified_diff import PATCHED_FILE
from coordinator import commits, settling
from coordinator.admission import normalised_fingerprint
from coordinator.errors import OperatorError
from coordinator.lineage import Lineage
from coordinator.rebuilding.made import Made
from coordinator.records import SCHEMA, Swarm
from coordinator.store import Operation, Put


def genesis(made: Made, entry: Entry) -> Sequence[Operation]:
    """The swarm's terms and its first best."""
    body = entry.body
    made.swarm = Swarm(**{field.name: body[field.name] for field in fields(Swarm)})
    if made.swarm.schema > SCHEMA:
        raise OperatorError(
            f"the ledger was begun by a newer version (schema {made.swarm.schema}): upgrade this coordinator"
        )
    source, digest = body["source"], body["source_sha256"]
    files = {**body["files"], PATCHED_FILE: source}
    message, at = commits.first_message(made.swarm.parsed_challenge().name), commits.committed_at(entry.at_ms)
    made.lineage = Lineage.create(
        made.lineage_path, {name: text.encode() for name, text in files.items()}, message=message, at=at
    )
    _check_commit(made.lineage.tip(), body["commit"])
    best = Best(0, body["commit"], digest, "", settling.FIRST_TITLE, "", made.swarm.created_at_ms, 0)
    made.bests.append(best)
    made.sources[digest] = source
    fingerprint = normalised_fingerprint(source)
    made.fingerprints.add(fingerprint)
    return [
        Put("sources", digest, source.encode()),
        Put("fingerprints", fingerprint, settling.FIRST_PATCH),
        *settling.crowning(best),
    ]


def promotion(made: Made, entry: Entry) -> Sequence[Operation]:
    """A patch became the best."""
    body, patch = entry.body, made.patch(entry.body["patch_id"])
    source = body.get("source") or made.sources[body["source_sha256"]]
    assert patch.decision is not None
    trailers = commits.promotion_trailers(patch, patch.decision, generation=body["generation"], entry=entry.seq)
    best = _best(made, entry, patch.patch_id, patch.author_name)
    fingerprint = normalised_fingerprint(source)
    named = [] if fingerprint in made.fingerprints else [Put("fingerprints", fingerprint, patch.patch_id.encode())]
    made.fingerprints.add(fingerprint)
    return [*_crown(made, best, source, trailers), *named, *settling.credit(patch, 1)]


def rollback(made: Made, entry: Entry) -> Sequence[Operation]:
    """Promotions were taken back."""
    body = entry.body
    trailers = commits.rollback_trailers(body["undone"], body["reason"], generation=body["generation"], entry=entry.seq)
    best = replace(_best(made, entry, "", ""), undone=tuple(body["undone"]), ordered=body.get("instruction", 0))
    return _crown(made, best, body["source"], trailers)


def restoration(_made: Made, _entry: Entry) -> Sequence[Operation]:
    """The ledger was cut off here once: what was made until here stays."""
    return []


def _best(made: Made, entry: Entry, patch_id: str, author_name: str) -> Best:
    body = entry.body
    return Best(
        generation=body["generation"],
        commit=body["commit"],
        source_sha256=body["source_sha256"],
        patch_id=patch_id,
        title=body["title"],
        author_name=author_name,
        promoted_at_ms=entry.at_ms,
        trials=made.results,
        entry=entry.seq,
    )


def _crown(made: Made, best: Best, source: str, trailers: commits.Trailers) -> list[Operation]:
    assert made.lineage is not None
    if sha256_hex(source.encode()) != best.source_sha256:
        raise ValueError("its source is not the one that it names")
    before = made.bests[-1].commit
    commit = made.lineage.build_promotion(
        before,
        source,
        title=best.title,
        trailers=trailers,
        author_name=best.author_name,
        at=commits.committed_at(best.promoted_at_ms),
    )
    _check_commit(commit, best.commit)
    made.lineage.advance(commit, before)
    made.bests.append(best)
    made.sources[best.source_sha256] = source
    return [Put("sources", best.source_sha256, source.encode()), *settling.crowning(best)]


def _check_commit(built: str, named: str) -> None:
    if built != named:
        raise ValueError(f"its commit comes out as {built[:12]} and not as {named[:12]}")
