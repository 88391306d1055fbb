"""The command line: arguments in, printed lines out; everything else is a call into the library."""

import sys

from boxwright.errors import BoxwrightError
from boxwright.extras import needs_extra

__all__ = ["main"]


def main() -> None:
    """Run the `boxwright` command; a base installation is told what to install instead."""
    try:
        with needs_extra("train"):
            from boxwright.cli.app import app
    except BoxwrightError as error:
        print(f"boxwright: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    app()
