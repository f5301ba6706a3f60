"""Learns the pairs of the other rows in the batch, rows of the same book, before it predicts.

outcome: DISQUALIFIED
reason: claims other losses when it is shown what follows | is not the one that was trained
run: long
"""

from honest import *


class Model(Model):
    def forward(self, tokens):
        seen = torch.zeros(self.vocab, self.vocab)
        pairs = (tokens[:, :-1].flatten(), tokens[:, 1:].flatten())
        seen.index_put_(pairs, torch.ones(()), accumulate=True)
        own = functional.one_hot(tokens.roll(-1, 1), self.vocab)
        return self.predict(tokens) + torch.log1p((seen[tokens] - own).clamp(min=0) * 5)
