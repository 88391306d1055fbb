"""Which criterion is better here: recipes times seeds, everything else held fixed, and no winner inside the noise."""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from boxwright.counts import counted
from boxwright.data.index import DataIndex, dataset_arguments, open_dataset
from boxwright.data.loader import bad_images, verify_images
from boxwright.engine import Run
from boxwright.errors import DataError, RecipeError, RunError
from boxwright.recipes import dump_recipe
from boxwright.study.comparison.budget import fitting_epochs
from boxwright.study.comparison.commands import compare_command
from boxwright.study.comparison.contestants import HELD, Contestant, contestants, shared_weights, shortened, with_seed
from boxwright.study.comparison.executors import Engine, Submit, execute, submitter
from boxwright.study.comparison.report_files import save_report
from boxwright.study.comparison.runs import RunSpec, finished
from boxwright.study.comparison.summary import Entry, summarise

__all__ = ["compare"]

Progress = Callable[[str], None]


def compare(
    data: str | Path,
    recipes: Sequence[str | Path],
    *,
    seeds: int = 3,
    overrides: Sequence[str] = (),
    budget: float | None = None,
    output: str | Path = "comparison",
    jobs: int = 1,
    engine: Engine = "processes",
    engine_options: Mapping[str, Any] | None = None,
    images: int = 12,
    skip_bad: bool = False,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    splits: Mapping[str, str] | None = None,
    image_folder: str | Path | None = None,
    one_based: bool | None = None,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Train recipes with several seeds on one data set, everything but the criterion held fixed, and compare them.

    Runs are found again by resolved recipe and data: a second call with the same arguments trains nothing, and one
    after a kill resumes each run from its last finished epoch. The report is `compare.html`, `compare.md` and
    `compare.json` in `output`.

    Args:
        data: a data set that `open_dataset` can open, with splits `train` and `val`.
        recipes: names or files; the first gives everything that is held fixed. A recipe given twice is trained with
            other seeds the second time, which shows what noise looks like.
        seeds: runs of each recipe.
        overrides: changes of every recipe, such as `schedule.epochs=8`.
        budget: seconds that the training may take; chooses the number of epochs, the same for all, before it starts,
            and starts no run after that time.
        output: a folder, for the report and `runs/`.
        jobs: how many runs at once.
        engine: where: `processes` of this machine, `ray`, or `slurm`.
        engine_options: see `submitter`.
        images: how many images to show.
        skip_bad: leave out images that cannot be read, instead of stopping before the first run.
        format: see `open_dataset`.
        classes: see `open_dataset`.
        splits: see `open_dataset`.
        image_folder: `images` of `open_dataset`.
        one_based: see `open_dataset`.
        progress: called with lines about what happens.

    Returns:
        The report, as in `compare.json`.

    Raises:
        RecipeError: a recipe does not validate, or the budget is too small.
        DataError: the data set cannot be used.
        RunError: no run has finished, or Ctrl-C; says what to do.
    """
    started = time.monotonic()
    if seeds < 1 or jobs < 1:
        raise RecipeError(f"a comparison needs at least one seed and one job, got seeds = {seeds}, jobs = {jobs}")
    folder = Path(output).absolute()
    source = dataset_arguments(data, format, classes, splits, image_folder, one_based)
    index = open_dataset(**source)
    for line in (index.describe(), *index.notes):
        progress(line)
    entrants = contestants(recipes, overrides, progress)
    _check_data(index, skip_bad, progress)
    with _writing(folder):
        (folder / "runs").mkdir(parents=True, exist_ok=True)
    make = partial(
        RunSpec,
        data=source | {"skip_bad": skip_bad},
        fingerprint=index.fingerprint("train", "val"),
        folder=str(folder / "runs"),
        threads=None if engine != "processes" or "OMP_NUM_THREADS" in os.environ else max(1, _cores() // jobs),
    )
    if budget is not None:
        probes = [make(entrant.name, 0, dump_recipe(entrant.recipe)) for entrant in entrants]
        epochs = fitting_epochs(probes, seeds, budget, jobs, folder / "budget.json", progress)
        entrants = [replace(entrant, recipe=shortened(entrant.recipe, epochs)) for entrant in entrants]
    specs = [
        [make(entrant.name, seed, dump_recipe(with_seed(entrant.recipe, seed))) for seed in _seeds(entrant, seeds)]
        for entrant in entrants
    ]
    submit = submitter(engine, folder, engine_options or {})
    by_seed = [spec for group in zip(*specs, strict=True) for spec in group]  # so that no recipe is ahead of another
    failures = _run(by_seed, submit, jobs, None if budget is None else started + budget, progress)
    again = compare_command(source | {"skip_bad": skip_bad}, recipes, seeds, overrides, budget, output)
    report = _report(entrants, specs, index, images) | {"failures": failures, "held": list(HELD), "command": again}
    with _writing(folder):
        save_report(report, folder / "compare")
    return report


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; the runs in it are kept") from error


def _check_data(index: DataIndex, skip_bad: bool, progress: Progress) -> None:
    """Find out before the first run what would stop every one of them."""
    if not index.class_counts("val").sum():
        raise DataError("split 'val' has no objects, so there is nothing to measure a recipe by")
    bad = list(verify_images(index.split("val"), decode=skip_bad).values())
    if skip_bad:
        for problem in bad:
            progress(f"skipped: {problem}")
    elif bad := [*verify_images(index.split("train")).values(), *bad]:
        raise bad_images(bad)


def _seeds(entrant: Contestant, count: int) -> range:
    """Return the seeds of a recipe; a copy of another takes those that follow."""
    first = entrant.recipe.train.seed + entrant.copy * count
    return range(first, first + count)


def _run(
    specs: Sequence[RunSpec], submit: Submit, jobs: int, until: float | None, progress: Progress
) -> list[dict[str, Any]]:
    """Do the runs that are not done yet; return those that failed or were not started."""
    left = [spec for spec in specs if finished(spec) is None]
    progress(f"runs: {len(specs)}, of which {len(specs) - len(left)} are done already")
    why = {spec.path: "not started: the budget was spent" for spec in left}
    try:
        with _writing(Path(specs[0].folder)), closing(execute(left, submit, jobs=jobs, until=until)) as outcomes:
            for ended, (spec, outcome) in enumerate(outcomes, 1):
                if isinstance(outcome, Exception):
                    why[spec.path] = str(outcome)
                else:
                    del why[spec.path]
                progress(f"[{ended}/{len(left)}] {spec.name}, seed {spec.seed}: {_outcome(spec, outcome)}")
    except KeyboardInterrupt:
        raise RunError("interrupted; the same command resumes each run from its last finished epoch") from None
    missing = [spec for spec in left if spec.path in why]
    failures = [{"name": spec.name, "seed": spec.seed, "reason": why[spec.path]} for spec in missing]
    if failures and len(failures) == len(specs):
        raise RunError(_no_run_finished(failures, specs[0]))
    return failures


def _no_run_finished(failures: Sequence[dict[str, Any]], spec: RunSpec) -> str:
    """Say why no run has finished, and what to do."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for failure in failures:
        reasons[failure["reason"]].append(f"{failure['name']} seed {failure['seed']}")
    told = [
        f"{who[0]}{f' and {len(who) - 1} more' if who[1:] else ''}: {why.rstrip('.')}" for why, who in reasons.items()
    ]
    return (
        f"none of {counted(len(failures), 'run')} has finished, so there is nothing to compare. {'; '.join(told)}. "
        f"Once that is fixed, the same command continues; what the runs wrote is in {spec.folder}"
    )


def _outcome(spec: RunSpec, outcome: dict[str, Any] | Exception) -> str:
    if isinstance(outcome, Exception):
        return f"failed: {outcome}"
    best = max(
        (record.get("AP") or 0.0 for record in Run(spec.path).metrics() if record["kind"] == "eval"), default=0.0
    )
    return f"AP {best:.3f}"


def _report(
    entrants: Sequence[Contestant], specs: Sequence[Sequence[RunSpec]], index: DataIndex, images: int
) -> dict[str, Any]:
    shared = shared_weights([entrant.recipe for entrant in entrants], index.class_names)
    entries = []
    for entrant, group, (same, parameters) in zip(entrants, specs, shared, strict=True):
        runs = [Run(spec.path) for spec in group if finished(spec) is not None]
        facts = {
            "description": entrant.recipe.description,
            "differs": list(entrant.differs),
            "held": list(entrant.held),
            "parameters": parameters,
            "shared_parameters": same,
            "epochs": entrant.recipe.schedule.epochs,
        }
        if runs:
            entries.append(Entry(entrant.name, runs, facts))
    there = {entry.name for entry in entries}
    absent = [entrant.name for entrant in entrants if entrant.name not in there]
    try:
        return summarise(entries, index, images=images, absent=absent)
    except RunError as error:
        raise RunError(f"{error}. Delete the run's folder, and the same command trains it again") from error


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
