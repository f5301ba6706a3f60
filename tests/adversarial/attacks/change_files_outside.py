"""Creates, changes, links and removes files of this person, in every way there is.

outcome: CRASHED
reason: SystemExit: reached []
"""

from honest import *

reached, home = [], TARGETS["home"]
key = home + "/.ssh/id_ed25519"
attempt(reached, "write", lambda: open(key, "w"))
attempt(reached, "append", lambda: open(key, "a"))
attempt(reached, "create", lambda: open(home + "/adversarial-made", "w"))
attempt(reached, "remove", lambda: os.unlink(key))
attempt(reached, "rename", lambda: os.rename(key, home + "/adversarial-moved"))
attempt(reached, "link", lambda: os.link(key, "linked"))
attempt(reached, "symbolic link", lambda: os.symlink(key, "link"))
attempt(reached, "truncate", lambda: os.truncate(key, 0))
attempt(reached, "mkdir", lambda: os.mkdir(home + "/adversarial-folder"))
attempt(reached, "utime", lambda: os.utime(key, (1, 1)))
attempt(reached, "library", lambda: open(torch.__file__, "a"))
attempt(reached, "source", lambda: open(__file__, "a"))
for place in ("/tmp", "/var/tmp", "/dev/shm", "/run", "/etc", os.path.dirname(os.getcwd())):
    attempt(reached, place, lambda: open(place + "/adversarial-made", "w"))
os.chmod(home, 0o700)  # succeeds and does nothing: the test looks at the folder
give_up(reached)
