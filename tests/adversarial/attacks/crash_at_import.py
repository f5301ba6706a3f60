"""Fails while it is loaded.

outcome: CRASHED
reason: RuntimeError: at import
run: long
"""

from honest import *

raise RuntimeError("at import")
