"""Which decided patches everybody's reporting is judged by. Pure. How it is judged is `trust`'s business."""

from collections.abc import Iterable, Mapping
from itertools import islice

HISTORY = 500  # patches decided last
OWN_HISTORY = 50  # and of those in quarantine the last patches of their own: else a quarantine would end by waiting


def history(recent: Iterable[tuple[str, int]], own: Mapping[str, int], entry: int) -> list[tuple[str, int]]:
    """Patches with the ledger entries of their verdicts, in the order of these, as of a ledger entry.

    `recent`: decided ones, the newest first, at least `HISTORY` of them from before the entry; `own`: decided ones of
    those in quarantine.
    """
    chosen = dict(islice(((patch_id, at) for patch_id, at in recent if at < entry), HISTORY))
    chosen |= {patch_id: at for patch_id, at in own.items() if at < entry}
    return sorted(chosen.items(), key=lambda item: item[1])
