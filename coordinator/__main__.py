"""`autoresearch-coordinator`, and `python -m coordinator`: quiet even when Ctrl-C comes while it loads."""

import sys


def main() -> None:
    """Loads the commands, for a second or so, and runs the one that was typed."""
    try:
        from coordinator.cli import main as run  # noqa: PLC0415 - the only import that takes time
    except KeyboardInterrupt:
        sys.exit(130)
    run(prog_name="autoresearch-coordinator")


if __name__ == "__main__":
    main()
