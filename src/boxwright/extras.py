"""What an import of an optional dependency says when it fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from boxwright.errors import MissingPackageError


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a failed import inside the block into one sentence that says which extra to install.

    Raises:
        MissingPackageError: a package of the extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "boxwright":
            raise
        raise MissingPackageError(
            f'this needs the package {error.name!r}, which is not installed: pip install "boxwright[{extra}]"',
            name=error.name,
        ) from error
