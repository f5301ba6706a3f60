"""`python -m coordinator` is `autoresearch-coordinator`."""

from coordinator.cli import main

main(prog_name="autoresearch-coordinator")
