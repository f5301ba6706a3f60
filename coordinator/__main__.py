"""`autoresearch-coordinator`, and `python -m coordinator`: quiet even when Ctrl-C comes while it loads.

A volunteer's installation has this command too, without the packages that it needs: then it says which are missing.
"""

import sys

_OWN = ("coordinator", "autoresearch")  # which are there, or it would not have come so far


def main() -> None:
    """Loads the commands, for a second or so, and runs the one that was typed."""
    try:
        from coordinator.cli import main as run  # noqa: PLC0415 - the only import that takes time
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _OWN:
            raise
        sys.exit(
            f"error: the package {missing} is not installed, and a coordinator needs it: "
            "pip install 'autoresearch-swarm[coordinator]', or '.[coordinator]' in a checkout"
        )
    run(prog_name="autoresearch-coordinator")


if __name__ == "__main__":
    main()
