"""How many epochs fit into a given time: measured on a few steps of every recipe, the same number for all."""

import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import torch

from boxwright.counts import counted
from boxwright.data.index import open_dataset
from boxwright.engine.anchors import settle_anchors
from boxwright.engine.checkpoint import save_state, save_weights
from boxwright.engine.device import build_fabric
from boxwright.engine.evaluate import detect
from boxwright.engine.loop import Trainer, grouped
from boxwright.engine.schedule import Schedule
from boxwright.engine.train import build_loaders
from boxwright.errors import BoxwrightError, RecipeError, RunError
from boxwright.files import write_text
from boxwright.recipes import build_detector
from boxwright.study.comparison.runs import RunSpec, failure

__all__ = ["Pace", "fitting_epochs", "pace"]

_STEPS: Final = 8  # that are timed, after two that are not
_SAFETY: Final = 0.9  # share of the budget that is planned


@dataclass(frozen=True)
class Pace:
    """Seconds that a recipe takes: to start, for a step, for an epoch with its checkpoint, and for an evaluation."""

    start: float
    step: float
    epoch: float
    evaluation: float

    def run(self, epochs: int, evaluations: float) -> float:
        """Return the seconds of a whole run."""
        return self.start + epochs * self.epoch + evaluations * self.evaluation


def fitting_epochs(
    specs: Sequence[RunSpec], seeds: int, budget: float, jobs: int, file: Path, progress: Callable[[str], None]
) -> int:
    """Return the largest number of epochs, up to the recipes' own, with which all runs fit into the budget.

    Measured once and kept in `file`, so that a second call with the same arguments chooses the same number.

    Args:
        specs: one run of every recipe.
        seeds: runs of each.
        budget: seconds.
        jobs: runs at once.
        file: keeps the choice.
        progress: called with a line about it.

    Raises:
        RecipeError: not even one epoch fits.
        RunError: a recipe fails in its first steps.
    """
    asked = json.dumps([[spec.key for spec in specs], seeds, budget, jobs])
    key = hashlib.sha256(asked.encode()).hexdigest()[:12]
    known = _known(file)
    if key not in known:
        known[key] = {spec.name: asdict(pace(spec)) for spec in specs}
        write_text(file, json.dumps(known, indent=1))
    paces = [Pace(**known[key][spec.name]) for spec in specs]
    recipe = specs[0].parsed()
    evaluations = recipe.schedule.epochs / recipe.train.eval_every

    def total(epochs: int) -> float:
        return sum(seeds * own.run(epochs, min(evaluations, epochs)) for own in paces) / jobs

    fitting = [epochs for epochs in range(1, recipe.schedule.epochs + 1) if total(epochs) <= _SAFETY * budget]
    if not fitting:
        raise RecipeError(
            f"--budget: {counted(len(specs), 'recipe')} × {counted(seeds, 'seed')} take about "
            f"{total(1) / _SAFETY:.0f} s with one epoch, which is more than {budget:.0f} s; give more time, fewer "
            "seeds, or a smaller data.size"
        )
    epochs = fitting[-1]
    planned = f"{epochs} of {counted(recipe.schedule.epochs, 'epoch')}"
    progress(f"budget: {planned} for every run, about {total(epochs):.0f} s in all")
    return epochs


def pace(spec: RunSpec) -> Pace:
    """Measure a recipe's pace by a few steps of its training, in a process of its own as a run would have."""
    started = time.perf_counter()
    answer = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import main; main()"],
        input=json.dumps(asdict(spec)),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    if answer.returncode:
        raise RunError(f"--budget: {spec.name} failed in its first steps: {failure(answer.stderr)}")
    measured = json.loads(answer.stdout.splitlines()[-1])
    return Pace(start=time.perf_counter() - started - measured.pop("spent"), **measured)


def main() -> None:
    """Print what the run that the standard input describes takes, and what was spent on finding out."""
    try:
        print(json.dumps(_timed(RunSpec(**json.load(sys.stdin)))))
    except BoxwrightError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _timed(spec: RunSpec) -> dict[str, float]:
    """Train a few steps as `train` does, evaluate two batches, write a checkpoint, and return the seconds of each."""
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    options = dict(spec.data)
    skip_bad = options.pop("skip_bad", False)
    index = open_dataset(**options)
    recipe = settle_anchors(spec.parsed(), index.split("train"))
    fabric = build_fabric(precision=recipe.train.precision)
    training, validation = build_loaders(fabric, recipe, index, skip_bad)
    counts = index.class_counts("train")
    detector = build_detector(recipe, index.class_names, class_counts=counts, pretrained=False)
    steps = max(len(training) // recipe.train.accumulate, 1)
    schedule = Schedule.from_config(recipe.schedule, steps)
    trainer = Trainer(
        fabric, detector, recipe.optimizer, schedule, clip_norm=recipe.train.clip_norm, ema_decay=recipe.train.ema
    )
    trainer.detector.train()
    clock = [time.perf_counter()]
    for group in islice(grouped(training.epoch(0), recipe.train.accumulate), _STEPS + 2):
        trainer.step([batch.to(fabric.device) for batch in group])
        _synchronize()
        clock.append(time.perf_counter())
    times = [after - before for before, after in itertools.pairwise(clock)]
    step = statistics.median(times[2:] or times)
    before = time.perf_counter()
    batches = list(islice(validation, 2))
    detect(trainer.evaluated, batches, precision=str(fabric.strategy.precision.precision))
    looked = time.perf_counter() - before
    share = sum(len(batch) for batch in batches) / len(validation.dataset)
    before = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:  # as every epoch ends with a checkpoint
        save_state(Path(folder) / "last.pt", trainer.state())
        save_weights(Path(folder) / "last.safetensors", trainer.evaluated.state_dict(), {})
    saved = time.perf_counter() - before
    spent = step * len(times) + looked + saved
    return {"step": step, "epoch": steps * step + saved, "evaluation": looked / share, "spent": spent}


def _known(file: Path) -> dict[str, dict[str, dict[str, float]]]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except ValueError as error:
        raise RunError(f"{file} is damaged: {error}; delete it, and the paces are measured again") from error


def _synchronize() -> None:
    """Wait for the GPU, where there is one, so that the clock is read after its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
