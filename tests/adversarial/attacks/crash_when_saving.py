"""Fails when it writes its weights.

outcome: CRASHED
reason: RuntimeError: saving
run: long
"""

from honest import *


def save(model, path):
    raise RuntimeError("saving")


sys.modules["__main__"].save_weights = save
