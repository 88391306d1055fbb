"""Writing files so that they are whole or absent."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["atomic_path", "lock", "remove_temporaries", "write_text"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to the disk and rename it, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():  # said before the work, not at the rename after it
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)  # the file that somebody asked for
        raise
    if os.name == "posix":
        _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder to which this process alone writes."""
    for file in folder.glob(".*.tmp"):
        file.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8; what in a file name is none becomes an escape, which JSON reads back."""
    with atomic_path(path) as temporary:
        # the same bytes on every system
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def lock(file: IO[str]) -> None:
    """Lock a file, open for writing, for this process until it closes the file or dies.

    The lock is the process's and not the open file's, of which a forked data loader would inherit a share and keep it
    when this process is killed.

    Raises:
        BlockingIOError: another process has it.
        OSError: the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 30)  # Windows lets nobody read what is locked, and the text is at the start
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except PermissionError as error:  # as some systems say it
        raise BlockingIOError(errno.EAGAIN, error.strerror) from error
