"""The command line: arguments in, printed lines out; everything else is a call into the library."""

import sys
from io import TextIOWrapper

from boxwright.errors import BoxwrightError
from boxwright.extras import needs_extra

__all__ = ["main"]


def main() -> None:
    """Run the `boxwright` command; where packages are missing, say what to install."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal has no letter for
    try:
        with needs_extra("train"):
            from boxwright.cli.app import app
    except BoxwrightError as error:
        print(f"boxwright: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    app()
