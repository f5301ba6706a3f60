"""Hands over a tensor that the model has no place for.

outcome: CRASHED
reason: in the exam: the weights do not fit build_model
run: long
"""

from honest import *


def save(model, path):
    from safetensors.torch import save_file

    save_file({"table": model.table.detach(), "more": torch.zeros(3)}, path)


sys.modules["__main__"].save_weights = save
