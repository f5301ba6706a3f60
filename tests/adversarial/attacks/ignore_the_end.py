"""Keeps the rows it was served and goes on training on them when the budget is spent.

outcome: TIMED_OUT
reason: after its budget was spent
"""

from honest import *

import time


def main(session):
    model, kept = build_model(session.config), []
    for batch in session.batches(rows=32):
        kept.append(batch)
        learn(model, batch.inputs, batch.targets)
    until = time.process_time() + 1.5
    while time.process_time() < until:
        for batch in kept:
            learn(model, batch.inputs, batch.targets)
    return model
