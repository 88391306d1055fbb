"""Where runs happen: processes of this machine, Ray or SLURM. All of them do nothing but call `run_one`."""

import os
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from boxwright.errors import BoxwrightError
from boxwright.study.comparison.clusters import on_ray, on_slurm
from boxwright.study.comparison.runs import RunSpec, command, failure, finished

__all__ = ["Engine", "Job", "Submit", "execute", "submitter"]

Engine = Literal["processes", "ray", "slurm"]
Submit = Callable[[RunSpec], "Job"]


class Job(Protocol):
    """A run under way."""

    def done(self) -> bool:
        """Whether it has ended."""

    def result(self) -> Any:
        """Return what `run_one` returned; raises what it raised."""

    def cancel(self) -> None:
        """Stop it where it is."""


def execute(
    specs: Sequence[RunSpec], submit: Submit, *, jobs: int = 1, until: float | None = None, poll: float = 0.2
) -> Generator[tuple[RunSpec, dict[str, Any] | Exception]]:
    """Run specs in order, some at a time, and yield each with its result or error as it ends.

    Closed before the end, by Ctrl-C for example, it stops those under way.

    Args:
        specs: what to run.
        submit: starts a run, see `submitter`.
        jobs: how many at once.
        until: `time.monotonic()` after which no more are started.
        poll: seconds between two looks.
    """
    waiting, active = list(specs), list[tuple[RunSpec, Job]]()
    try:
        while waiting or active:
            if until is not None and time.monotonic() > until:
                waiting.clear()
            while waiting and len(active) < jobs:
                active.append((waiting[0], submit(waiting.pop(0))))
            ended = [entry for entry in active if entry[1].done()]
            for spec, job in ended:
                active.remove((spec, job))
                try:
                    yield spec, job.result()
                except Exception as error:  # an engine may raise anything for a run that failed
                    yield spec, error
            if not ended and active:
                time.sleep(poll)
    finally:
        for _, job in active:
            job.cancel()


def submitter(engine: Engine, folder: Path, options: Mapping[str, Any]) -> Submit:
    """Return the function that starts a run on an engine.

    Args:
        engine: `processes`, `ray` or `slurm`.
        folder: for what SLURM jobs write.
        options: for Ray and SLURM, see `on_ray` and `on_slurm`.

    Raises:
        BoxwrightError: the engine is not installed or refuses the options.
    """
    if engine == "ray":
        return on_ray(options)
    if engine == "slurm":
        return on_slurm(folder / "slurm", options)
    if options:
        raise BoxwrightError(f"--engine-option is for ray and slurm, got {', '.join(options)}")
    return Process


class Process:
    """A run in a process of its own, which dies with this one; its output goes into a file beside the run folder."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self._log = spec.path.with_suffix(".log")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        arguments, first = command(spec)
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                encoding="utf-8",
                env=os.environ | {"PYTHONIOENCODING": "utf-8"},
            )
        assert self._process.stdin is not None
        self._process.stdin.write(first)
        self._process.stdin.flush()  # and left open: when this process ends it closes, which ends the run

    def cancel(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()

    def done(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def result(self) -> Any:
        """Return what the run measured."""
        self._process.wait()
        result = finished(self.spec)
        if self._process.returncode or result is None:
            raise failure(self._log.read_text(encoding="utf-8", errors="replace"))
        return result
