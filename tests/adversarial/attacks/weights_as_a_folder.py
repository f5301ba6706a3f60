"""Hands over a folder.

outcome: DISQUALIFIED
reason: the weights are not a plain file
run: long
"""

from honest import *


def save(model, path):
    os.mkdir(path)


sys.modules["__main__"].save_weights = save
