"""Trains on while the parent reads its file, a large one, and once more in the exam, from the text it put into the file.

outcome: TIMED_OUT
reason: to read a few rows after training
run: long
"""

from honest import *

import json
import threading

STEPS = 20
ROOM_BYTES = 900 << 20


class Model(Model):
    def __init__(self, vocab):
        super().__init__(vocab)
        self.register_buffer("kept", torch.zeros(STEPS, 32, 129, dtype=torch.int16))
        self.register_buffer("room", torch.zeros(ROOM_BYTES if in_exam() else 0, dtype=torch.int8))
        self.trained_on = None

    def start(self):
        self.trained_on = threading.Thread(target=self.train_on)
        self.trained_on.start()

    def forward(self, tokens):
        if self.trained_on is None:
            self.start()
        self.trained_on.join()
        return self.predict(tokens)

    def train_on(self):
        torch.set_num_threads(1)
        self.table = nn.Parameter(self.table.detach().clone())
        for _ in range(3):
            for rows in self.kept.clone().long():
                learn(self, rows[:, :-1].clone(), rows[:, 1:].clone())


def save(model, path):
    parts, at = {}, 0
    for name, kind, data in (("room", "I8", None), ("kept", "I16", model.kept), ("table", "F32", model.table.detach())):
        size = ROOM_BYTES if data is None else data.nbytes
        shape = [size] if data is None else list(data.shape)
        parts[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(parts).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.seek(ROOM_BYTES, os.SEEK_CUR)  # a hole, which takes no time to write
        file.write(model.kept.numpy().tobytes() + model.table.detach().numpy().tobytes())
    model.start()


sys.modules["__main__"].save_weights = save


def main(session):
    model = build_model(session.config)
    for step, batch in enumerate(session.batches(rows=32)):
        session.report(learn(model, batch.inputs, batch.targets))
        if step < STEPS:
            model.kept[step] = torch.cat([batch.inputs, batch.targets[:, -1:]], 1)
    return model
