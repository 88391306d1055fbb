"""Where runs happen: processes of this machine, Ray or SLURM. All of them do nothing but call `run_one`."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from boxwright.errors import BoxwrightError, RunError
from boxwright.extras import needs_extra
from boxwright.study.runs import RunSpec, command, failure, finished, run_one

__all__ = ["Engine", "Job", "Submit", "execute", "submitter"]

Engine = Literal["processes", "ray", "slurm"]
Submit = Callable[[RunSpec], "Job"]


class Job(Protocol):
    """A run under way, as `concurrent.futures`, Ray and submitit offer it."""

    def done(self) -> bool:
        """Whether it has ended."""

    def result(self) -> Any:
        """Return what `run_one` returned; raises what it raised."""


def execute(
    specs: Sequence[RunSpec], submit: Submit, *, jobs: int = 1, until: float | None = None, poll: float = 0.2
) -> Iterator[tuple[RunSpec, dict[str, Any] | Exception]]:
    """Run specs in order, some at a time, and yield each with its result or error as it ends.

    Args:
        specs: what to run.
        submit: starts a run, see `submitter`.
        jobs: how many at once.
        until: `time.monotonic()` after which no more are started.
        poll: seconds between two looks.
    """
    waiting, active = list(specs), list[tuple[RunSpec, Job]]()
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


def submitter(engine: Engine, folder: Path, options: Mapping[str, Any]) -> Submit:
    """Return the function that starts a run on an engine.

    Args:
        engine: `processes`, `ray` or `slurm`.
        folder: for what SLURM jobs write.
        options: for Ray, arguments of `ray.remote` such as `num_gpus`; for SLURM, those of submitit's
            `update_parameters`, such as `slurm_partition`, and `cluster: local` to try it without SLURM.

    Raises:
        BoxwrightError: the engine is not installed or refuses the options.
    """
    if engine == "ray":
        return _ray(options)
    if engine == "slurm":
        return _slurm(folder, options)
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
        with self._log.open("w") as log:
            self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
        assert self._process.stdin is not None
        self._process.stdin.write(first)
        self._process.stdin.flush()  # and left open: that it closes tells the process of our end

    def done(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def result(self) -> Any:
        """Return what the run measured."""
        self._process.wait()
        result = finished(self.spec)
        if self._process.returncode or result is None:
            raise failure(self.spec, self._log.read_text(encoding="utf-8", errors="replace"))
        return result


def _ray(options: Mapping[str, Any]) -> Submit:
    with needs_extra("ray"):
        import ray
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    # a process for each run, so that its peak memory is its own
    remote = ray.remote(max_calls=1, **options)(run_one)
    return lambda spec: remote.remote(spec).future()


def _slurm(folder: Path, options: Mapping[str, Any]) -> Submit:
    with needs_extra("slurm"):
        import submitit
    try:
        # named, because submitit would take this machine where it finds no SLURM
        executor = submitit.AutoExecutor(folder=folder / "slurm", cluster=options.get("cluster", "slurm"))
        parameters = {key: value for key, value in options.items() if key != "cluster"}
        executor.update_parameters(name="boxwright", **parameters)
    except (NameError, ValueError, TypeError, RuntimeError) as error:
        raise RunError(f"--engine slurm: {error}") from error
    return lambda spec: executor.submit(run_one, spec)
