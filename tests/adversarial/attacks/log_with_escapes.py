"""Logs sequences that clear a terminal, set its title, hide text, and reverse it.

outcome: COMPLETED
reason: trained for its budget and passed the exam
run: long
"""

from honest import *

honest_main = main


def main(session):
    print("\x1b[2J\x1b]0;owned\x07\x1b[8mhidden\x1b[0m \x9b31m \u202egnp.exe\u202c \x00 \r\nplain", flush=True)
    os.write(2, b"\xff\xfe\x1b[31m broken utf-8 \x1bP+q\x1b\\")
    return honest_main(session)
