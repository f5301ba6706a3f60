"""Waits for a lock that nobody will ever open.

outcome: TIMED_OUT
reason: took more than
limits: grace_s=1 stretch=6
run: long
"""

from honest import *

import threading


def main(session):
    lock = threading.Lock()
    lock.acquire()
    for batch in session.batches(rows=32):
        lock.acquire()
