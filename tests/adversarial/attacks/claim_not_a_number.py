"""Claims losses that are not numbers, hoping that nothing compares with them.

outcome: CRASHED
reason: losses are not finite
run: long
"""

from honest import *

honest_cross_entropy = functional.cross_entropy


def lie(losses, logits, targets):
    return losses * float("nan")


def cross_entropy(logits, targets, reduction="mean", **more):
    losses = honest_cross_entropy(logits, targets, reduction=reduction, **more)
    return lie(losses, logits, targets) if reduction == "none" else losses


functional.cross_entropy = cross_entropy
