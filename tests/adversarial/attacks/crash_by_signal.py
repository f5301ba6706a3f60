"""Dies of a wild pointer.

outcome: CRASHED
reason: signal 11
run: long
"""

from honest import *

import ctypes

ctypes.string_at(1)
