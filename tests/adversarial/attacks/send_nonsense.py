"""Writes bytes that are no message.

outcome: DISQUALIFIED
reason: wrote to the harness's pipe
run: long
"""

from honest import *


def main(session):
    os.write(session._write_fd, (6).to_bytes(4, "big") + (0).to_bytes(4, "big") + b"[1, 2]")
    session.batches(rows=1).__next__()
