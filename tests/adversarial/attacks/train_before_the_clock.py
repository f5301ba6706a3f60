"""Trains on whatever text the installation has before it asks for its first batch.

outcome: CRASHED
reason: spent its whole budget before its first batch
"""

from honest import *

import time


def main(session):
    text = open(os.__file__, "rb").read()
    model = build_model(session.config)
    rows = torch.tensor(list(text[: 129 * 32])).view(32, 129)
    until = time.process_time() + 4
    while time.process_time() < until:
        learn(model, rows[:, :-1], rows[:, 1:])
    for batch in session.batches(rows=32):
        learn(model, batch.inputs, batch.targets)
    return model
