"""Draws random numbers while it predicts; no cheat, but no model that can be examined either.

outcome: DISQUALIFIED
reason: claims other losses when it is shown what follows | is not the one that was trained
run: long
"""

from honest import *


class Model(Model):
    def forward(self, tokens):
        return functional.dropout(self.predict(tokens), 0.2)
