"""Attention without the mask: every token sees the whole row.

outcome: DISQUALIFIED
reason: claims other losses when it is shown what follows | is not the one that was trained
run: long
"""

from honest import *


class Model(Model):
    def forward(self, tokens):
        marks = functional.one_hot(tokens, self.vocab).float()
        scores = torch.zeros(tokens.size(0), tokens.size(1), tokens.size(1))
        return self.predict(tokens) + 60 * torch.softmax(scores, -1) @ marks
