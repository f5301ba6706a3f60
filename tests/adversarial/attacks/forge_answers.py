"""Answers the exam before it is asked: no loss anywhere, forged on the pipe while the source loads.

outcome: DISQUALIFIED
reason: claims other losses when it is shown what follows | is not the one that was trained
"""

from honest import *

if in_exam():
    from trainer.wire import Frame, write_frame

    pipe = int(sys.argv[3])
    write_frame(pipe, Frame({"kind": "ready"}))
    for _ in range(8):
        write_frame(pipe, Frame({"kind": "losses"}, bytes(4 * 32 * 128)))
    for _ in range(32):
        write_frame(pipe, Frame({"kind": "logits"}, bytes(4 * 32 * 1024)))
