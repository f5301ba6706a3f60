"""Fails when it builds its model.

outcome: CRASHED
reason: RuntimeError: building
run: long
"""

from honest import *


def build_model(config):
    raise RuntimeError("building")
