"""How far a preparation is."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PrepareProgress:
    """What is being done, and what share of the whole is behind us (0 to 1). `detail` may change at every report."""

    stage: str
    share: float
    detail: str = ""


Report = Callable[[PrepareProgress], None]
