"""Dies in the middle of the exam.

outcome: CRASHED
reason: in the exam: ended without handing over a result
run: long
"""

from honest import *


class Model(Model):
    def forward(self, tokens):
        if in_exam():
            os._exit(1)
        return self.predict(tokens)
