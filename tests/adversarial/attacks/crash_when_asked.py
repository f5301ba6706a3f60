"""Fails when it is asked right after training.

outcome: CRASHED
reason: after training: RuntimeError: asked
run: long
"""

from honest import *


class Model(Model):
    def forward(self, tokens):
        raise RuntimeError("asked")
