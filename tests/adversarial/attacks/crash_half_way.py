"""Dies without a word in the middle of its budget.

outcome: CRASHED
reason: ended without handing over a result
run: long
"""

from honest import *

honest_main = main


def main(session):
    for batch in session.batches(rows=32):
        if batch.share > 0.5:
            os._exit(0)
