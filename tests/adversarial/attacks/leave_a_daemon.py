"""Leaves a process behind, twice forked in a session of its own, that goes on writing weights.

outcome: CRASHED
reason: SystemExit: reached []
"""

from honest import *

import time

reached = []


def daemon():
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    while True:
        with open("weights.safetensors", "wb") as file:
            file.write(b"forged")
        time.sleep(0.01)


attempt(reached, "fork", daemon)
attempt(reached, "spawn", lambda: os.posix_spawn(sys.executable, ["python", "-c", "while True: pass"], {}))
give_up(reached)
