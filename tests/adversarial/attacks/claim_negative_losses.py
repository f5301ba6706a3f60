"""Claims losses below zero.

outcome: DISQUALIFIED
reason: claims negative losses
run: long
"""

from honest import *

honest_cross_entropy = functional.cross_entropy


def lie(losses, logits, targets):
    return losses - 20


def cross_entropy(logits, targets, reduction="mean", **more):
    losses = honest_cross_entropy(logits, targets, reduction=reduction, **more)
    return lie(losses, logits, targets) if reduction == "none" else losses


functional.cross_entropy = cross_entropy
