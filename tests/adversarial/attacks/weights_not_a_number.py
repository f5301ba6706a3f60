"""Hands over weights that are not numbers, from a model that was sound when it was asked.

outcome: CRASHED
reason: losses are not finite
run: long
"""

from honest import *


def save(model, path):
    from safetensors.torch import save_file

    save_file({"table": model.table.detach() * float("nan")}, path)


sys.modules["__main__"].save_weights = save
