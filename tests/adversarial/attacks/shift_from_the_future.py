"""A token shift in the wrong direction: mixes in a little of the next token's row of the table.

outcome: DISQUALIFIED
reason: claims other losses when it is shown what follows | is not the one that was trained
run: long
"""

from honest import *


class Model(Model):
    def forward(self, tokens):
        logits = self.predict(tokens)
        return logits + 0.2 * self.table.T[tokens.roll(-1, 1)]
