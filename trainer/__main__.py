"""`python -m trainer`: see `cli.py`. Quiet even when Ctrl-C comes while it loads."""

import sys

try:
    from trainer.cli import main
except KeyboardInterrupt:
    sys.exit(130)

main(prog_name="python -m trainer")
