"""Announces a message of four gigabytes.

outcome: DISQUALIFIED
reason: wrote to the harness's pipe
run: long
"""

from honest import *


def main(session):
    os.write(session._write_fd, b"\xff" * 8 + b"x" * 1000)
    session.batches(rows=1).__next__()
