"""Fails when it gets its first batch.

outcome: CRASHED
reason: RuntimeError: first batch
run: long
"""

from honest import *


def main(session):
    for batch in session.batches(rows=32):
        raise RuntimeError("first batch")
