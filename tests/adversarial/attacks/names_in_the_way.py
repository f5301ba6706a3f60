"""Leaves folders of the names that the parent gives to folders while it removes them.

outcome: COMPLETED
reason: trained for its budget and passed the exam
run: long
"""

from honest import *

for number in range(3):
    for name in ("other", ".removed-"):
        os.makedirs(f"{name}{number}/adversarial")
