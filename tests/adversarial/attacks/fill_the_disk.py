"""Writes file after file into its folder.

outcome: CRASHED
reason: ended for using more disk than a trial may
limits: weights_bytes=104857600
run: long
"""

from honest import *

import time

for number in range(64):
    with open(f"adversarial-{number}", "wb") as file:
        file.write(bytes(64 << 20))
time.sleep(30)
raise SystemExit("wrote four gigabytes")
