"""What an import of an optional dependency says when it fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from boxwright.errors import BoxwrightError


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a failed import inside the block into one sentence that says which extra to install.

    Raises:
        BoxwrightError: a package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "boxwright":
            raise
        raise BoxwrightError(
            f'this needs the package {error.name!r}, which is not installed: pip install "boxwright[{extra}]"'
        ) from error
