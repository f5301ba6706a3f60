"""Sends a made-up failure with a reason full of escapes: an outcome that sounds like the machine's fault.

outcome: CRASHED
reason: the disk of this machine is full
run: long
"""

from honest import *


def main(session):
    from trainer.wire import Frame, write_frame

    reason = "\x1b[2J\x1b]0;owned\x07the disk\r\nof this machine is full" + "x" * 900
    write_frame(session._write_fd, Frame({"kind": "failed", "reason": reason, "out_of_memory": "no"}))
