"""Rewrites the session: its batches never end, and are those of the past once the budget is spent.

outcome: TIMED_OUT
reason: did not hand over its weights within 1 s
limits: grace_s=1 stretch=90
run: long
"""

from honest import *


def main(session):
    from trainer.session import Session

    seen = []
    honest_batches = Session.batches

    def batches(self, rows):
        for batch in honest_batches(self, rows):
            seen.append(batch)
            yield batch
        while True:
            yield from seen

    Session.batches = batches
    model = build_model(session.config)
    for batch in session.batches(32):
        learn(model, batch.inputs, batch.targets)
    return model
