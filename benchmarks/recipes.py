"""Train recipes from scratch on one data set and tabulate what they reach and what they cost.

    python benchmarks/recipes.py --data ../shared/data/bccd --format coco --recipes gfl-tiny --seeds 3 --name bccd
    python benchmarks/recipes.py --data ../shared/data/bccd --format coco --name bccd --speed

Every training is its own `boxwright train` process, one after the other, or `--jobs` at once. A recipe may carry
changes of its own: `gfl-tiny@detector.head.convs=3`. Accuracy is that of the last epoch on the validation images,
with no choice among epochs. `--speed` is for a quiet machine: one epoch of each recipe on its own, whose median step
time (between two looks at the log) gives the minutes of a whole training, and whose largest process gives the
resident peak. Results go to benchmarks/results/recipes_NAME.json; a training that stands there already is not
repeated. The table is printed.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch

from boxwright.data import open_dataset
from boxwright.recipes import load_recipe

RESULTS = Path(__file__).parent / "results"
DENSE = "retinanet retinanet-ghm retinanet-cb ap-loss alrp rank-sort atss gfl gflv2 nanodet nanodet-plus tood"


class Outcome(NamedTuple):
    """A finished process: its log, wall clock and processor time in seconds, and the largest resident set in MiB."""

    rows: list[dict[str, Any]]
    seconds: float
    cpu_seconds: float
    peak: float


def boxwright_train(recipe: str, run: Path, threads: int, options: Sequence[str]) -> Outcome:
    """Run `boxwright train` in a process of its own."""
    name, *changes = recipe.split("@")
    command = [sys.executable, "-m", "boxwright", "train", "--recipe", name, "--output", str(run), *options]
    command += [part for change in changes for part in ("--set", change)]
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{log.read()[-2000:]}")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return Outcome(rows, time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def train(recipe: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once and return what was reached."""
    options = [*data_options(arguments), "--seed", str(seed)]
    options += [part for change in arguments.set for part in ("--set", change)]
    with tempfile.TemporaryDirectory() as folder:
        run = (arguments.keep or Path(folder)) / f"{recipe}-{seed}"
        outcome = boxwright_train(recipe, run, arguments.threads, options)
    final = [row for row in outcome.rows if row["kind"] == "eval"][-1]
    return {
        "AP": round(final["AP"], 4),
        "AP50": round(final["AP50"], 4),
        "classes": {name: None if ap is None else round(ap, 4) for name, ap in final["AP_of_class"].items()},
        "epochs": final["epoch"],
        "seconds": round(outcome.seconds),
        "cpu_seconds": round(outcome.cpu_seconds),
        "on": device(arguments.threads),
    }


def speed(recipe: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train for an epoch and return what a step takes."""
    options = [*data_options(arguments), "--set", "schedule.epochs=1", "--set", "schedule.milestones=[]"]
    with tempfile.TemporaryDirectory() as folder:
        outcome = boxwright_train(recipe, Path(folder) / "run", arguments.threads, options)
    name, *changes = recipe.split("@")
    config = load_recipe(name, changes)
    logged = [row for row in outcome.rows if row["kind"] == "train"]
    step = statistics.median(config.data.batch_size / row["images_per_s"] for row in logged)
    steps = logged[-1]["step"] * config.schedule.epochs
    return {
        "step_ms": round(1000 * step, 1),
        "minutes": round(step * steps / 60, 1),
        "peak_MiB": round(outcome.peak),
        "on": device(arguments.threads),
    }


def data_options(arguments: argparse.Namespace) -> list[str]:
    """Name the data set to `boxwright train`."""
    return ["--data", str(arguments.data), *(["--format", arguments.format] if arguments.format else [])]


def device(threads: int) -> str:
    """Say what computes."""
    return (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{platform.machine()}, {threads} thread{'s' * (threads > 1)}"
    )


def table(results: dict[str, Any]) -> str:
    """Lay the results out in Markdown, the best AP first."""
    trainings, speeds = results["trainings"], results.get("speed", {})
    mean = {recipe: statistics.mean(run["AP"] for run in runs.values()) for recipe, runs in trainings.items()}
    classes = list(next(iter(next(iter(trainings.values())).values()))["classes"])
    header = ["recipe", "AP", "seeds", "AP50", *[f"AP {name}" for name in classes], "step, ms", "minutes", "peak, MiB"]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for recipe in sorted(mean, key=mean.__getitem__, reverse=True):
        runs = list(trainings[recipe].values())
        spread = f" ± {statistics.stdev(run['AP'] for run in runs):.3f}" if len(runs) > 1 else ""
        per_class = [statistics.mean(run["classes"][name] for run in runs) for name in classes]
        cells = [f"`{recipe}`", f"{mean[recipe]:.3f}{spread}", str(len(runs))]
        cells += [f"{ap:.3f}" for ap in (statistics.mean(run["AP50"] for run in runs), *per_class)]
        cells += [f"{speeds.get(recipe, {}).get(key, '')}" for key in ("step_ms", "minutes", "peak_MiB")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--format", help="where the folder holds several")
    parser.add_argument("--recipes", nargs="+", default=[f"{name}-tiny" for name in DENSE.split()])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="changes of all recipes, as in boxwright train")
    parser.add_argument("--name", required=True, help="of the results file")
    parser.add_argument("--threads", type=int, default=2, help="of each training")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs")
    parser.add_argument("--speed", action="store_true", help="measure one epoch of each instead")
    arguments = parser.parse_args()
    recipes = arguments.recipes
    file = RESULTS / f"recipes_{arguments.name}.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"trainings": {}}
    results["versions"] = {"torch": torch.__version__, "python": platform.python_version()}
    index = open_dataset(arguments.data, format=arguments.format)
    results["objects"] = dict(zip(index.class_names, index.class_counts("train").tolist(), strict=True))

    def note(section: str, recipe: str, outcome: dict[str, Any]) -> None:
        results.setdefault(section, {}).setdefault(recipe, {}).update(outcome)
        file.write_text(json.dumps(results, indent=1) + "\n")
        print(recipe, outcome, flush=True)

    if arguments.speed:
        for recipe in recipes:
            note("speed", recipe, speed(recipe, arguments))
        return
    todo = [(seed, recipe) for seed in range(arguments.seeds) for recipe in recipes]
    todo = [(seed, recipe) for seed, recipe in todo if str(seed) not in results["trainings"].get(recipe, {})]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = {pool.submit(train, recipe, seed, arguments): (recipe, seed) for seed, recipe in todo}
        for job in as_completed(jobs):
            recipe, seed = jobs[job]
            note("trainings", recipe, {str(seed): job.result()})
    print(table(results))


if __name__ == "__main__":
    main()
