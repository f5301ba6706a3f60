"""Announces a header of eight exabytes.

outcome: DISQUALIFIED
reason: header would be 4611686018427387904 bytes long
run: long
"""

from honest import *


def save(model, path):
    with open(path, "wb") as file:
        file.write((1 << 62).to_bytes(8, "little") + b"{}")


sys.modules["__main__"].save_weights = save
