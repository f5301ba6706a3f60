"""Closes the pipes and goes on.

outcome: ANY
reason: ended without handing over a result | did not ask for its first batch
limits: startup_s=8
run: long
"""

from honest import *


def main(session):
    os.closerange(3, 1024)
    while True:
        pass
