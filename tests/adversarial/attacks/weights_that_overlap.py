"""Two tensors share their bytes.

outcome: DISQUALIFIED
reason: is not where it should be
run: long
"""

from honest import *


def save(model, path):
    import json

    header = json.dumps({n: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for n in ("table", "b")}).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + bytes(16))


sys.modules["__main__"].save_weights = save
