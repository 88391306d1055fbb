"""Ctrl-C that stops a training between two steps."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interruptible"]


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back until the caller is at a safe place; a second one takes effect at once.

    Python raises `KeyboardInterrupt` wherever it happens to be, and where that is a callback of compiled code or a
    destructor, the interrupt is printed and forgotten, or leaves a lock behind.

    Yields:
        A function to call at safe places: it raises `KeyboardInterrupt` if Ctrl-C was pressed. An error of the block is
        turned into that interrupt as well, since other processes that heard the same Ctrl-C may be gone already.
    """
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    # a thread cannot set handlers, and a caller that has set its own keeps it
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, remember)
    try:
        yield check
    except Exception as error:
        if asked:
            raise KeyboardInterrupt from error
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
