"""What a person sees while a detector trains: a live bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["TrainingProgress", "duration", "print_line"]


class TrainingProgress:
    """Reports steps and epochs.

    Args:
        console: where to print; None prints nothing (processes other than the first).
        total_steps: steps of the whole training.
        done_steps: steps that an earlier session has taken.
        interval: seconds between plain lines.
    """

    def __init__(self, console: Console | None, total_steps: int, done_steps: int = 0, interval: float = 15.0) -> None:
        self.console = console
        self.total_steps = total_steps
        self.done_steps = done_steps
        self.interval = interval
        self._started = self._printed = time.monotonic()
        self._bar: Progress | None = None
        if console is not None and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                TextColumn("left"),
                TimeRemainingColumn(compact=True),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("training", total=total_steps, completed=done_steps, status="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, epoch: str, step: int, losses: Mapping[str, float], lr: float, speed: float) -> None:
        """Show the loss terms, the learning rate and images per second after `step` steps."""
        terms = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        status = f"loss {sum(losses.values()):.4f} ({terms})  lr {lr:.2e}  {speed:.1f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, description=epoch, completed=step, status=status)
        elif self.console is not None and time.monotonic() - self._printed >= self.interval:
            self._printed = time.monotonic()
            self.line(f"{epoch}  step {step}/{self.total_steps}  {status}  left {duration(self._left(step))}")

    def line(self, text: str) -> None:
        """Print a line that stays."""
        print_line(self.console, text)

    def _left(self, step: int) -> float:
        taken = max(step - self.done_steps, 1)
        return (time.monotonic() - self._started) / taken * (self.total_steps - step)


def print_line(console: Console | None, text: str) -> None:
    """Print a line as it is, whatever markup it seems to hold; None prints nothing."""
    if console is not None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Write a time span for people.

    >>> duration(75), duration(4000)
    ('1:15', '1:06:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
