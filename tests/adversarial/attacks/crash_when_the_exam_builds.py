"""Fails when the exam builds the model.

outcome: CRASHED
reason: in the exam: RuntimeError: exam builds
run: long
"""

from honest import *

honest_build = build_model


def build_model(config):
    if in_exam():
        raise RuntimeError("exam builds")
    return honest_build(config)
