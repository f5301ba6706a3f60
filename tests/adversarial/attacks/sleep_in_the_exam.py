"""Never answers the exam.

outcome: TIMED_OUT
reason: no answer within the time allowed
limits: exam_s=6
run: long
"""

from honest import *

import time

if in_exam():
    time.sleep(3600)
