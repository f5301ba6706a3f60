"""Hands over a device node without end.

outcome: CRASHED
reason: PermissionError
run: long
"""

from honest import *


def save(model, path):
    os.mknod(path, 0o20666, os.makedev(1, 5))


sys.modules["__main__"].save_weights = save
