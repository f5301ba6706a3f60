"""What anyone may read: patches with their evidence, the best, leaderboards, live state, events. Changes nothing."""

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from autoresearch import limits
from autoresearch.judging import ledger
from autoresearch.judging.model import Patch
from autoresearch.judging.periods import counts
from autoresearch.judging.trust import Suspicion
from autoresearch.judging.verdict import UNDECIDED
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import operator_service_pb2 as operator_pb2
from autoresearch.v1 import patch_pb2
from coordinator import views
from coordinator.confirming import Confirmer
from coordinator.deciding import Decider
from coordinator.export import LedgerExport
from coordinator.lineage import Lineage
from coordinator.records import Records, Swarm
from coordinator.refusals import InvalidRequestError, NotFoundError
from coordinator.register import Register
from coordinator.scheduling import ACTIVE_MS
from coordinator.watching import Watch

LOOK_EVERY_S = 0.2  # a follower sees a new event this late at most
LOOKED_AT = 1_000  # patches looked through for one page of those with some verdict
OWN_IMPROVEMENTS = 10  # patches shown for a hardware class that they help while harming another
LEDGER_PAGE = 500  # lines read at once
READINGS_MOST = 20  # of a leaderboard, until the ledger did not grow meanwhile
ENTRIES_MOST = 2**53  # of a ledger, ever; the store counts to 2^63


class Queries:
    """Reads for readers."""

    def __init__(
        self,
        swarm: Swarm,
        records: Records,
        decider: Decider,
        confirmer: Confirmer,
        *,
        watch: Watch,
        lineage: Lineage,
        export: LedgerExport,
        now_ms: Callable[[], int],
        first_run: Callable[[str], str] = lambda _: "",
    ) -> None:
        """`first_run`: why a patch waits for its first run, or empty."""
        self._first_run = first_run
        self._swarm = swarm
        self._records = records
        self._store = records.store
        self._decider = decider
        self._confirmer = confirmer
        self._watch = watch
        self._lineage = lineage
        self._export = export
        self._now_ms = now_ms
        self._bundle = ("", b"")  # tip of the lineage, and the bundle of it
        self._bundling = asyncio.Lock()

    async def patch(self, beginning: str) -> patch_pb2.Patch:
        """One patch by its id or an unambiguous beginning of it.

        Raises:
            InvalidRequestError, NotFoundError: no such form, none, or several.
        """
        if not 4 <= len(beginning) <= 16 or not set(beginning) <= set("0123456789abcdef"):
            raise InvalidRequestError("a patch id is 16 lower-case hex digits; its first 4 or more will do")
        ids = await self._records.match_patch(beginning)
        if not ids:
            raise NotFoundError(f"no patch {beginning}; `autoresearch-volunteer patches` lists them")
        if len(ids) > 1:
            raise InvalidRequestError(f"several patches begin with {beginning}: give more digits")
        (patch,) = await self._records.patches(ids)
        (message,) = await self._messages([patch])
        message.diff = await self._store.get("diffs", patch.patch_id) or b""
        message.trials.extend(await self._trials(patch.patch_id))
        if patch.promoted_generation and (found := await self._confirmation(patch.promoted_generation)) is not None:
            message.confirmation.CopyFrom(found)
        return message

    async def _confirmation(self, generation: int) -> patch_pb2.Confirmation | None:
        """What its audit says of a promotion now, or said when it was rolled back."""
        lineage = await self._records.lineage()
        undone_by = next((best for best in lineage if generation in best.undone), None)
        entry = undone_by.entry if undone_by is not None else await self._store.length("ledger")
        audits = await self._confirmer.audits(entry)
        own = next((found for found in audits if generation in found.span.generations), None)
        return None if own is None else views.confirmation(own.span, own.audit)

    async def _trials(self, patch_id: str) -> list[patch_pb2.PatchTrial]:
        trials = (await self._records.candidate_trials(patch_id))[-limits.PAGE_ITEMS :]
        names = await self._records.names(trial.identity_id for trial in trials)
        logs = await self._store.get_many("logs", [trial.result_sha256 for trial in trials])
        voids = (await self._records.jury()).voids
        return [
            views.patch_trial(trial, names.get(trial.identity_id, ""), log or b"", voids.why_not(trial))
            for trial, log in zip(trials, logs, strict=True)
        ]

    async def patches(self, verdicts: Sequence[str], limit: int, token: str) -> tuple[list[patch_pb2.Patch], str]:
        """A page of patches, newest first, and the token of the next page ("" when there is none). A page of some
        verdicts may hold fewer than `limit`, or none, and not be the last."""
        limit = min(limit or limits.PAGE_ITEMS, limits.PAGE_ITEMS)
        if token and not (token.isascii() and token.isdigit() and len(token) < 10):
            raise InvalidRequestError("that page token was not made by this coordinator")
        begin = offset = int(token or 0)
        found: list[Patch] = []
        while len(found) < limit and offset - begin < LOOKED_AT:
            page = await self._store.ranked("patches", limits.PAGE_ITEMS, offset=offset, highest_first=True)
            if not page:
                return await self._messages(found), ""
            for patch in await self._records.patches([member for member, _ in page]):
                offset += 1
                if not verdicts or patch.verdict in verdicts:
                    found.append(patch)
                if len(found) == limit:
                    break
        return await self._messages(found), str(offset)

    async def _messages(self, patches: Sequence[Patch]) -> list[patch_pb2.Patch]:
        decisions = [patch.decision or await self._fresh_decision(patch) for patch in patches]
        held = await self._records.quarantined()
        excluded = [sorted(held & await self._jurors(patch.patch_id)) if held else [] for patch in patches]
        spoken_of = [vote["identity"] for decision in decisions for vote in decision["votes"]]
        spoken_of += [who for patch in patches for who in views.identities_in(patch.reason)]
        names = await self._records.names([*spoken_of, *(who for own in excluded for who in own)])
        return [
            await self._message(patch, decision, names, own)
            for patch, decision, own in zip(patches, decisions, excluded, strict=True)
        ]

    async def _message(
        self, patch: Patch, decision: Mapping[str, Any], names: Mapping[str, str], excluded: Sequence[str]
    ) -> patch_pb2.Patch:
        own = [*(vote["identity"] for vote in decision["votes"]), *views.identities_in(patch.reason), *excluded]
        named = {who: names[who] for who in own if who in names}
        orders = await self._records.orders(patch.patch_id) if patch.verdict in UNDECIDED else ()
        in_flight = sum(state != "ready" for _, state in orders)
        message = views.patch_message(patch, decision, named, in_flight, excluded)
        message.reason = self._first_run(patch.patch_id) or message.reason
        return message

    async def _jurors(self, patch_id: str) -> set[str]:
        return {trial.identity_id for trial in await self._records.candidate_trials(patch_id)}

    async def _fresh_decision(self, patch: Patch) -> Mapping[str, Any]:
        return (await self._decider.decision(patch)).to_json()

    async def best(self) -> patch_pb2.Best:
        """The current best with its scores per hardware class."""
        best = await self._records.best()
        scores = await self._scores(best.source_sha256, best.patch_id)
        message = views.best_message(best, scores, await self._proposals())
        if best.patch_id and (found := await self._confirmation(best.generation)) is not None:
            message.confirmation.CopyFrom(found)
        return message

    async def _proposals(self) -> list[patch_pb2.RollBackProposal]:
        found = await self._records.proposals()
        names = await self._records.names(who for own in found for who in views.identities_in(own.reason))
        return [views.proposal(own, names) for own in found]

    async def _own_improvements(self, hardware_class: str) -> list[patch_pb2.OwnImprovement]:
        ranked = await self._store.ranked(f"improves:{hardware_class}", OWN_IMPROVEMENTS, highest_first=True)
        patches = await self._records.patches([patch_id for patch_id, _ in ranked])
        return [
            patch_pb2.OwnImprovement(patch_id=patch.patch_id, title=patch.title, gain_bpb=gain)
            for patch, (_, gain) in zip(patches, ranked, strict=True)
        ]

    async def _scores(self, source_sha256: str, patch_id: str) -> list[patch_pb2.ClassScore]:
        """Every counted trial of exactly this source: as a baseline, and as the candidate that it was."""
        trials = await self._records.baseline_trials(source_sha256)
        if patch_id:
            trials += [t for t in await self._records.candidate_trials(patch_id) if t.source_sha256 == source_sha256]
        by_class: dict[str, list[float]] = {}
        for trial in (await self._records.jury()).voids.counting(trials):
            if counts(trial) and trial.val_bpb is not None:
                by_class.setdefault(trial.hardware_class, []).append(trial.val_bpb)
        sigma = await self._decider.noise_now()
        return [
            patch_pb2.ClassScore(
                hardware_class=name,
                val_bpb=statistics.median(found),
                trials=len(found),
                sd_bpb=sigma.get(name, 0.0),
                own_improvements=await self._own_improvements(name),
            )
            for name, found in sorted(by_class.items())
        ]

    async def register(self, register: Register) -> operator_pb2.GetRegisterResponse:
        """Roles, bans, and what waits for approval."""
        ordered, bans = await self._records.every_roles(), await register.bans()
        jury, voids = await self._records.jury(), [own for own in await self._records.every_void() if not own.restored]
        doubts = [own for own in jury.held.values() if own.suspicion == Suspicion.OPERATOR]
        doubted = [*jury.vouched, *(own.identity_id for own in doubts), *(own.identity_id for own in voids)]
        names = await self._records.names([*ordered, *bans, *doubted])
        return operator_pb2.GetRegisterResponse(
            roles=[
                operator_pb2.GetRegisterResponse.Standing(
                    identity_id=who, name=names.get(who, ""), role=views.role(role), holds=holds
                )
                for who, roles in sorted(ordered.items())
                for role, holds in sorted(roles.changes.items())
            ],
            banned=[
                operator_pb2.GetRegisterResponse.BannedIdentity(identity_id=who, name=names.get(who, ""), reason=reason)
                for who, reason in sorted(bans.items())
            ],
            waiting=await self._messages(await register.waiting()),
            paused=await register.paused(),
            doubts=views.doubts(doubts, jury.vouched, names),
            invalid=[views.invalid(own, names) for own in voids],
        )

    async def leaderboard(self, limit: int) -> board_pb2.GetLeaderboardResponse:
        """Volunteers by trials given, authors by gain: as of one length of the ledger, to which an audit compares it,
        unless entries come in faster than it can be read."""
        limit = min(limit or 50, limits.PAGE_ITEMS)
        for _ in range(READINGS_MOST):
            length = await self._store.length("ledger")
            board = board_pb2.GetLeaderboardResponse(
                volunteers=await self._standings("trials", limit), authors=await self._standings("gain", limit)
            )
            if await self._store.length("ledger") == length:
                break
        return board

    async def _standings(self, ranking: str, limit: int) -> list[board_pb2.Standing]:
        members = [member for member, _ in await self._store.ranked(ranking, limit, highest_first=True)]
        names = await self._records.names(members)
        trials, train_ms, promotions, gain_bpb = [
            await self._store.scores(own, members) for own in ("trials", "train_ms", "promotions", "gain")
        ]
        reputations = self._watch.reputations
        return [
            board_pb2.Standing(
                rank=at + 1,
                identity_id=member,
                name=names.get(member, ""),
                trials=int(trials[at] or 0),
                train_ms=int(train_ms[at] or 0),
                promotions=int(promotions[at] or 0),
                gain_bpb=gain_bpb[at] or 0.0,
                agreement=own.agreement if (own := reputations.get(member)) else None,
            )
            for at, member in enumerate(members)
        ]

    async def status(self) -> board_pb2.GetStatusResponse:
        """The swarm at this moment."""
        challenge = self._swarm.parsed_challenge()
        now = self._now_ms()
        shown = [lease_id for lease_id, _ in await self._store.ranked("expiry", limits.PAGE_ITEMS)]
        leases = await self._records.live_leases(shown)
        leases.sort(key=lambda lease: (lease.granted_at_ms, lease.lease_id))
        progress = await self._records.progress([lease.lease_id for lease in leases])
        names = await self._records.names(lease.identity_id for lease in leases)
        return board_pb2.GetStatusResponse(
            swarm_id=self._swarm.swarm_id,
            challenge_name=challenge.name,
            budget_ms=challenge.budget_ms,
            generation=(await self._records.best()).generation,
            identities=await self._store.count("identities"),
            machines=await self._store.count("machines"),
            machines_active=await self._store.size_between("seen", now - ACTIVE_MS, float(2**53)),
            patches_open=await self._store.size("open"),
            patches=await self._store.size("patches"),
            trials=await self._store.count("results"),
            ledger_entries=await self._store.length("ledger"),
            live=[
                views.live_trial(lease, progress.get(lease.lease_id), names.get(lease.identity_id, ""))
                for lease in leases
            ],
            live_trials=await self._store.size("expiry"),
            now_ms=now,
            quarantined=await self._quarantined(),
            proposals=await self._proposals(),
        )

    async def _quarantined(self) -> list[board_pb2.QuarantinedIdentity]:
        held = sorted((await self._records.jury()).held.values(), key=lambda own: -own.since_ms)[: limits.PAGE_ITEMS]
        names = await self._records.names(own.identity_id for own in held)
        return [views.quarantined(own, names.get(own.identity_id, "")) for own in held]

    async def events(self, start: int, *, follow: bool) -> AsyncIterator[board_pb2.Event]:
        """Events in order from sequence number `start` on.

        Raises:
            InvalidRequestError: no ledger ever grows so far.
        """
        _check_start(start)
        while True:
            lines = await self._store.items("ledger", start, start + LEDGER_PAGE - 1)
            entries = [ledger.parse(line) for line in lines]
            names = await self._records.names(who for entry in entries for who in views.identities(entry))
            for entry in entries:
                yield views.event(entry, names)
            start += len(lines)
            if not lines and not follow:
                return
            # A thousand followers must not ask the store a thousand times.
            while follow and self._export.length <= start:  # noqa: ASYNC110 - its growth is for writers to wait for
                await asyncio.sleep(LOOK_EVERY_S)

    def ledger_lines(self, start: int) -> AsyncIterator[bytes]:
        """Ledger lines from `start` on, as far as they are on disk: what is read there is what stays.

        Raises:
            InvalidRequestError: no ledger ever grows so far.
        """
        _check_start(start)
        return self._export.lines(start)

    async def source(self, sha256: str) -> bytes:
        """The text of a source.

        Raises:
            NotFoundError: this swarm has none of that digest.
        """
        source = await self._records.source(sha256)
        if source is None:
            raise NotFoundError(f"no source {sha256[:12]} in this swarm")
        return source

    async def lineage_bundle(self) -> bytes:
        """Branch `best` as a git bundle: one for all who read it until the branch moves."""
        async with self._bundling:
            tip = await asyncio.to_thread(self._lineage.tip)
            if self._bundle[0] != tip:
                self._bundle = tip, await asyncio.to_thread(self._lineage.bundle, limits.LINEAGE_BYTES)
            return self._bundle[1]


def _check_start(start: int) -> None:
    if start > ENTRIES_MOST:
        raise InvalidRequestError(f"no ledger has an entry {start}")
