"""Hands over a FIFO: whoever opens it waits for ever.

outcome: CRASHED
reason: PermissionError
run: long
"""

from honest import *


def save(model, path):
    os.mkfifo(path)


sys.modules["__main__"].save_weights = save
