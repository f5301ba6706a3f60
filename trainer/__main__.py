"""`python -m trainer`: see `cli.py`."""

from trainer.cli import main

main(prog_name="python -m trainer")
