"""Hands over a sparse file just under what the system lets it make.

outcome: DISQUALIFIED
reason: the weights are not a sound safetensors file
limits: weights_bytes=104857600
run: long
"""

from honest import *


def save(model, path):
    with open(path, "wb") as file:
        file.truncate(104857600)


sys.modules["__main__"].save_weights = save
