"""Returns logits that are not numbers where the future is hidden.

outcome: CRASHED
reason: logits are not finite
run: long
"""

from honest import *


class Model(Model):
    def forward(self, tokens):
        hidden = (tokens[:, -1] == tokens[:, 0]).any()
        return self.predict(tokens) * (float("nan") if hidden else 1.0)
