"""Fails where the future is hidden.

outcome: CRASHED
reason: in the exam: RuntimeError: probe
run: long
"""

from honest import *


class Model(Model):
    def forward(self, tokens):
        if in_exam() and (tokens[:, -1] == tokens[:, 0]).any():
            raise RuntimeError("probe")
        return self.predict(tokens)
