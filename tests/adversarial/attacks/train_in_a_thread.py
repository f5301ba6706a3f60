"""Goes on training in a thread that outlives main, on the weights that were handed over.

outcome: ANY
reason: trained for its budget | after its budget was spent | to read a few rows | not the one that was trained | did not hand over
run: long
"""

from honest import *

import threading

honest_main = main


def main(session):
    kept = []
    honest_batches = session.batches

    def batches(rows):
        for batch in honest_batches(rows):
            kept.append(batch)
            yield batch

    session.batches = batches
    model = honest_main(session)

    def go_on():
        while True:
            for batch in kept:
                with torch.enable_grad():
                    learn(model, batch.inputs, batch.targets)

    threading.Thread(target=go_on, daemon=True).start()
    return model
