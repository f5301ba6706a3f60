"""Hands over a pickle that runs a command when it is loaded.

outcome: DISQUALIFIED
reason: the weights are not a sound safetensors file
"""

from honest import *


def save(model, path):
    import pickle

    class Command:
        def __reduce__(self):
            return os.system, ("touch /tmp/adversarial-pickle",)

    with open(path, "wb") as file:
        pickle.dump(Command(), file)


sys.modules["__main__"].save_weights = save
