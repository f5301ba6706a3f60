"""A thread writes other weights into the file again and again, after it was handed over too.

outcome: DISQUALIFIED
reason: the weights were changed after they were handed over
"""

from honest import *

import threading
import time

honest_main = main


def main(session):
    model = honest_main(session)

    def write_on():
        while True:
            try:
                with open("weights.safetensors", "r+b") as file:
                    file.seek(-4, 2)
                    file.write(os.urandom(4))
            except OSError:
                pass
            time.sleep(0.001)  # else it is found out for the time it takes

    threading.Thread(target=write_on, daemon=True).start()
    return model
