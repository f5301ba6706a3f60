"""Takes a twentieth off in a quarter of the rows, drawn anew each time.

outcome: DISQUALIFIED
reason: claims other losses when it is shown what follows | is not the one that was trained
run: long
"""

from honest import *

honest_cross_entropy = functional.cross_entropy


def lie(losses, logits, targets):
    rows = losses.view(-1, 128)
    return (rows * (1 - 0.05 * (torch.rand(len(rows), 1) < 0.25))).flatten()


def cross_entropy(logits, targets, reduction="mean", **more):
    losses = honest_cross_entropy(logits, targets, reduction=reduction, **more)
    return lie(losses, logits, targets) if reduction == "none" else losses


functional.cross_entropy = cross_entropy
