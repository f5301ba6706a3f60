"""Walks all objects and stack frames of its process for the parent's: feed, packer, data, secret.

outcome: CRASHED
reason: SystemExit: reached []
run: long
"""

from honest import *

import gc
import inspect

reached = []
for thing in gc.get_objects():
    module = getattr(type(thing), "__module__", "")
    if (
        isinstance(module, str)
        and module.startswith("trainer.")
        and module.split(".")[1] not in ("session", "wire", "child")
    ):
        reached.append(module)
for frame in inspect.stack():
    for name in list(frame.frame.f_locals):
        if name in ("secret", "packer", "feed", "manifest", "rows"):
            reached.append(name)
reached += [
    name for name in sys.modules if name in ("trainer.feed", "trainer.manifest", "trainer.examiner", "trainer.corpus")
]
for name in ("feed", "manifest", "examiner", "corpus", "prepare", "packing", "stages"):
    attempt(reached, f"import {name}", lambda: __import__(f"trainer.{name}"))
give_up(reached)
