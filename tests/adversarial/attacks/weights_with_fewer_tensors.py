"""Hands over no tensor at all.

outcome: CRASHED
reason: in the exam: the weights do not fit build_model
run: long
"""

from honest import *


def save(model, path):
    from safetensors.torch import save_file

    save_file({}, path)


sys.modules["__main__"].save_weights = save
