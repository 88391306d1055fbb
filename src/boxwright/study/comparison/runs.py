"""One run of a comparison: trained once, and found again by its recipe and data."""

import hashlib
import json
import os
import shutil
import statistics
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from boxwright.engine import Run, train
from boxwright.errors import BoxwrightError, RunError
from boxwright.files import write_text
from boxwright.recipes import Recipe, parse_recipe

__all__ = ["RunSpec", "finished", "measure", "measured", "run_one"]

_COST = "cost.json"


@dataclass(frozen=True)
class RunSpec:
    """Everything that a run is made from, as plain values that travel to another process or machine.

    Attributes:
        name: of the recipe, as it is called in the report.
        seed: the recipe's `train.seed`.
        recipe: the resolved recipe, as YAML.
        data: which data set, as a run keeps it: arguments of `open_dataset`, and `skip_bad`.
        fingerprint: of the data set's content.
        folder: the folder of all runs.
        threads: of the CPU; None leaves them as they are.
    """

    name: str
    seed: int
    recipe: str
    data: Mapping[str, Any]
    fingerprint: str
    folder: str
    threads: int | None = None

    @property
    def key(self) -> str:
        """Digest of resolved recipe and data."""
        return hashlib.sha256(f"{self.recipe}\0{self.fingerprint}".encode()).hexdigest()[:12]

    def parsed(self) -> Recipe:
        """Return the recipe, validated."""
        return parse_recipe(self.recipe, f"recipe of {self.name}")

    @property
    def path(self) -> Path:
        """The run folder."""
        return Path(self.folder) / f"{self.name}-seed{self.seed}-{self.key}"


def finished(spec: RunSpec) -> dict[str, Any] | None:
    """Return what `run_one` measured, None if it has not finished."""
    return measured(Run(spec.path))


def measured(run: Run) -> dict[str, Any] | None:
    """Return what `measure` wrote, None if it did not."""
    try:
        cost = json.loads((run.path / _COST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cost if isinstance(cost, dict) else None


def measure(run: Run) -> dict[str, Any]:
    """Write what a run, which this process has just trained, cost: seconds per step and peak memory."""
    cost = {
        "seconds_per_step": seconds_per_step(run),
        "peak_memory": peak_memory(),
        "memory": "GPU" if torch.cuda.is_available() else "process",
    }
    write_text(run.path / _COST, json.dumps(cost))
    return cost


def run_one(spec: RunSpec) -> dict[str, Any]:
    """Train or resume a run, or find it finished; return time per step and peak memory.

    Two processes that are given the same run do not work on it at once: the second waits and finds it done.

    Raises:
        BoxwrightError: the run folder is damaged, its file system has no locks, or see `train`.
    """
    with _alone(spec.path.with_suffix(".lock")):
        if (cost := finished(spec)) is not None:
            return cost
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        if not Run(spec.path).state_file.exists():
            shutil.rmtree(spec.path, ignore_errors=True)  # no epoch has finished, so nothing is lost
        resume = spec.path if spec.path.exists() else None
        if resume is not None:
            _check_resumable(Run(resume))
        options = dict(spec.data)
        path = options.pop("path")
        return measure(train(spec.parsed(), path, output=spec.path, resume=resume, quiet=True, **options))


def _check_resumable(run: Run) -> None:
    """Raise where a file that a resume needs is missing or broken."""
    try:
        Run.open(run.path)
        _ = run.recipe, run.classes, run.data, run.environments, run.state()
    except BoxwrightError as error:
        raise RunError(f"{error}. Delete {run.path}, and the same command trains it again") from error


def seconds_per_step(run: Run) -> float | None:
    """Return the median time of an optimiser step."""
    speeds = [record["images_per_s"] for record in run.metrics() if record["kind"] == "train"]
    return run.recipe.data.batch_size / statistics.median(speeds) if speeds else None


def peak_memory() -> int | None:
    """Return the most bytes that this process held at once: of the GPU if there is one, else of the machine."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    try:  # not getrusage, which counts the parent before exec
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    lines = (line.split() for line in status.splitlines())
    return next((1024 * int(words[1]) for words in lines if words[:1] == ["VmHWM:"]), None)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock, which the system releases when this process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        if os.name == "posix":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise RunError(f"cannot lock {path}: {error.strerror}; choose an --output that knows locks") from error
        yield


def main() -> None:
    """Do the run that the first line of the input describes; exit when the input closes, as the parent's death does."""
    spec = RunSpec(**json.loads(sys.stdin.readline()))

    # The loader's workers get no share in what is read for ever: forked, they would find the lock of `sys.stdin` taken,
    # and on Windows a process does not start while another one reads the pipe that is its input.
    parent = os.dup(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)

    def watch() -> None:
        while os.read(parent, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        run_one(spec)
    except BoxwrightError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def command(spec: RunSpec) -> tuple[list[str], str]:
    """Return the command that does `run_one` in a process of its own, and what to write to its input."""
    return [sys.executable, "-c", f"from {__name__} import main; main()"], json.dumps(asdict(spec)) + "\n"


def failure(output: str) -> RunError:
    """Describe a process that failed by the last line it wrote."""
    return RunError((output.strip().splitlines() or ["it was killed, or ran out of memory"])[-1])
