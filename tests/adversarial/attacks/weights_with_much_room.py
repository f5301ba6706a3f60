"""Trains on for the time that writing its weights may take: most of the file is a hole, and written in no time.

outcome: TIMED_OUT
reason: after its budget was spent
"""

from honest import *

import json
import time

ROOM_BYTES = 900 << 20


class Model(Model):
    def __init__(self, vocab):
        super().__init__(vocab)
        self.register_buffer("room", torch.zeros(ROOM_BYTES if in_exam() else 0, dtype=torch.int8))


def save(model, path):
    table = model.table.detach().numpy().tobytes()
    parts = {
        "room": {"dtype": "I8", "shape": [ROOM_BYTES], "data_offsets": [0, ROOM_BYTES]},
        "table": {"dtype": "F32", "shape": [model.vocab] * 2, "data_offsets": [ROOM_BYTES, ROOM_BYTES + len(table)]},
    }
    header = json.dumps(parts).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.seek(ROOM_BYTES, os.SEEK_CUR)
        file.write(table)


sys.modules["__main__"].save_weights = save


def main(session):
    model, kept = build_model(session.config), []
    for batch in session.batches(rows=32):
        kept.append(batch)
        session.report(learn(model, batch.inputs, batch.targets))
    until = time.process_time() + 1.0
    while time.process_time() < until:
        for batch in kept:
            learn(model, batch.inputs, batch.targets)
    return model
