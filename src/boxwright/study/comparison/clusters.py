"""Runs on other machines: Ray, and SLURM through submitit."""

import logging
import math
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from boxwright.errors import BoxwrightError, RunError
from boxwright.extras import needs_extra
from boxwright.study.comparison.runs import RunSpec, finished, run_one

__all__ = ["on_ray", "on_slurm", "run_elsewhere"]

logger = logging.getLogger(__name__)

_LOOK: Final = 20.0  # seconds between two looks at SLURM's queue
_GRACE: Final = 60.0  # seconds that a shared folder may take to show what another machine has written


def run_elsewhere(spec: RunSpec) -> dict[str, Any] | RunError:
    """Do `run_one` on whichever machine this is; return its error, which engines would wrap in pages of their own."""
    place = platform.node()
    if not Path(spec.folder).is_dir():
        return RunError(f"{spec.folder} is not there on {place}: --output must be a folder that all machines share")
    try:
        return run_one(spec)
    except BoxwrightError as error:
        return RunError(f"on {place}: {error}")
    except Exception as error:
        traceback.print_exc()  # into the engine's log
        return RunError(f"on {place}: {type(error).__name__}: {error}")


def on_ray(options: Mapping[str, Any]) -> Callable[[RunSpec], "RayJob"]:
    """Return the function that starts a run on the Ray cluster of `RAY_ADDRESS`, or of this machine, or a new one.

    Args:
        options: arguments of `ray.remote`, such as `num_gpus`.

    Raises:
        BoxwrightError: Ray is not installed or refuses the options.
    """
    with needs_extra("ray"):
        import ray
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False)
        # a process for each run, so that its peak memory is its own
        remote = ray.remote(max_calls=1, **options)(run_elsewhere)
    except (ConnectionError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"--engine ray: {error}") from error
    wanted = {"CPU": options.get("num_cpus", 1), "GPU": options.get("num_gpus", 0), **options.get("resources", {})}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(own.get(kind, 0) >= count for kind, count in wanted.items()) for own in machines):
        logger.warning("no machine of the Ray cluster has %s: the runs wait until one joins", wanted)
    return lambda spec: RayJob(spec, remote.remote(spec))


class RayJob:
    """A task of Ray. Ray itself starts it again, three times, where its process or its machine dies."""

    def __init__(self, spec: RunSpec, task: Any) -> None:
        self._spec, self._task = spec, task

    def done(self) -> bool:
        """Whether it has ended."""
        import ray

        return bool(ray.wait([self._task], timeout=0)[0])

    def result(self) -> Any:
        """Return what the run measured."""
        import ray

        try:
            return _measured(self._spec, ray.get(self._task))
        except ray.exceptions.RayError as error:
            raise RunError(f"Ray gave it up: {str(error).strip().splitlines()[0]}") from error

    def cancel(self) -> None:
        """Stop it."""
        import ray

        ray.cancel(self._task, force=True)


def on_slurm(folder: Path, options: Mapping[str, Any]) -> Callable[[RunSpec], "SlurmJob"]:
    """Return the function that queues a run in SLURM.

    Args:
        folder: for what the jobs write.
        options: of submitit's `update_parameters`, such as `slurm_partition` and `timeout_min`.

    Raises:
        BoxwrightError: submitit or SLURM is not there, or refuses the options.
    """
    with needs_extra("slurm"):
        import submitit
    try:
        # named, because submitit would take this machine where it finds no SLURM
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
        executor.update_parameters(**options)
    except (NameError, ValueError, TypeError, RuntimeError) as error:
        raise RunError(f"--engine slurm: {error}") from error
    queue = Queue()

    def submit(spec: RunSpec) -> SlurmJob:
        executor.update_parameters(**{"name": f"{spec.name}-seed{spec.seed}", **options})
        try:
            return SlurmJob(spec, executor.submit(Resumable(), spec), queue)
        except submitit.core.utils.FailedJobError as error:  # what sbatch said
            raise RunError(f"--engine slurm: {str(error).strip().splitlines()[-1]}") from error

    return submit


class Resumable:
    """`run_elsewhere` in submitit's protocol: a job whose time is over is queued again and resumes from its epoch."""

    def __call__(self, spec: RunSpec) -> dict[str, Any] | RunError:
        """Do the run."""
        return run_elsewhere(spec)

    def checkpoint(self, spec: RunSpec) -> Any:
        """Return what to queue again; called shortly before the time is over, or when another job needs the place."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, spec)


class Queue:
    """SLURM's queue: one rare look at it serves all jobs."""

    def __init__(self) -> None:
        self._asked = self._answered = -math.inf
        self._jobs: frozenset[str] = frozenset()

    def lacks(self, job: str, since: float) -> bool:
        """Whether SLURM, when last asked, did not know a job that was submitted at `since`."""
        if time.monotonic() > max(self._asked, since) + _LOOK:
            self._asked = time.monotonic()
            answer = subprocess.run(
                ["squeue", "--me", "--noheader", "--format=%i"], capture_output=True, encoding="utf-8", check=False
            )
            if answer.returncode == 0:  # else the controller is away, and may come back
                self._answered, self._jobs = self._asked, frozenset(answer.stdout.split())
        return self._answered > since and job not in self._jobs


class SlurmJob:
    """A job of SLURM, over when it has written its result or has been gone from the queue for a while.

    submitit would learn of a job that was killed from `sacct` alone, which not every cluster keeps.
    """

    def __init__(self, spec: RunSpec, job: Any, queue: Queue) -> None:
        self._spec, self._job, self._queue = spec, job, queue
        self._submitted = self._known = time.monotonic()

    def done(self) -> bool:
        """Whether it has ended."""
        if self._job.paths.result_pickle.exists():
            return True
        if not self._queue.lacks(self._job.job_id, self._submitted):
            self._known = time.monotonic()
        return time.monotonic() - self._known > _GRACE

    def result(self) -> Any:
        """Return what the run measured."""
        if self._job.paths.result_pickle.exists():
            return _measured(self._spec, self._job.result())
        raise RunError(
            f"job {self._job.job_id} is gone from the queue without a result: cancelled, out of memory or time, or its "
            f"machine failed; see {self._job.paths.stderr}"
        )

    def cancel(self) -> None:
        """Stop it."""
        self._job.cancel(check=False)


def _measured(spec: RunSpec, value: dict[str, Any] | RunError) -> dict[str, Any]:
    """Return what `run_elsewhere` returned, once it is seen here as well."""
    if isinstance(value, RunError):
        raise value
    until = time.monotonic() + _GRACE
    while finished(spec) is None:
        if time.monotonic() > until:
            raise RunError(f"done, but {spec.path} is not seen here: --output must be a folder that all machines share")
        time.sleep(0.5)
    return value
