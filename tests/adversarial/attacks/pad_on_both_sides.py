"""A convolution padded on both sides instead of the left: half of its window is the future.

outcome: DISQUALIFIED
reason: claims other losses when it is shown what follows | is not the one that was trained
run: long
"""

from honest import *


class Model(Model):
    def forward(self, tokens):
        marks = functional.one_hot(tokens, self.vocab).float().transpose(1, 2)
        kernel = torch.tensor([0.0, 0.0, 8.0]).expand(self.vocab, 1, 3)
        return self.predict(tokens) + functional.conv1d(marks, kernel, padding=1, groups=self.vocab).transpose(1, 2)
