"""Searches for the validation text, prepared or as the package ships it, for other trials and for keys.

outcome: CRASHED
reason: SystemExit: reached []
unprotected: the data
"""

from honest import *

reached = []
for name, path in TARGETS["files"].items():
    attempt(reached, name, lambda: open(path, "rb").read(1))
for name, path in TARGETS["folders"].items():
    attempt(reached, name, lambda: os.listdir(path))
for folder in sys.path:
    for root, _, names in os.walk(folder):
        reached += [name for name in names if "austen" in name or name in ("val.bin", "reserve.bin", "corpus.py")]
give_up(sorted(set(reached)))
