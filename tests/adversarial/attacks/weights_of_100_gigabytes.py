"""Hands over a file that claims a hundred gigabytes and takes none.

outcome: CRASHED
reason: File too large
run: long
"""

from honest import *


def save(model, path):
    with open(path, "wb") as file:
        file.truncate(100 << 30)


sys.modules["__main__"].save_weights = save
