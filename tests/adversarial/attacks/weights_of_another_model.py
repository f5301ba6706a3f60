"""Hands over better weights than those it trained: here, worse ones, scaled.

outcome: DISQUALIFIED
reason: is not the one that was trained
run: long
"""

from honest import *


def save(model, path):
    from safetensors.torch import save_file

    save_file({"table": model.table.detach() * 1.1}, path)


sys.modules["__main__"].save_weights = save
