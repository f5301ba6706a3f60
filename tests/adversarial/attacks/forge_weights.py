"""Says on the pipe that its weights are written before it was served one token.

outcome: CRASHED
reason: handed over weights without training
run: long
"""

from honest import *


def main(session):
    from trainer.wire import Frame, write_frame

    write_frame(session._write_fd, Frame({"kind": "weights", "val_bpb": 0.0}))
    return build_model(session.config)
