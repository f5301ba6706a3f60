"""`python -m volunteer` is `autoresearch-volunteer`."""

from volunteer.cli import main

main()
