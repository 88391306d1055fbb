"""Train recipes from scratch on one data set and tabulate what they reach and what they cost.

    python benchmarks/recipes.py --data ../shared/data/bccd --recipes retinanet-tiny,gfl-tiny --seeds 3 --name bccd

Every training is its own `boxwright train` process, one after the other on two threads (or `--jobs` at once, which says
nothing about times any more). A recipe may carry changes of its own: `gfl-tiny@detector.head.convs=3`. Accuracy is that
of the last epoch on the validation images, with no choice among epochs. Step time is the median between two looks at
the log; memory is the largest process's resident peak. Results go to benchmarks/results/recipes_NAME.json, a training
that stands there already is not repeated, and the table is printed.
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
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
import yaml

RESULTS = Path(__file__).parent / "results"
DENSE = "retinanet retinanet-ghm retinanet-cb ap-loss alrp rank-sort atss gfl gflv2 nanodet nanodet-plus tood"


def train(recipe: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once, in a process of its own, and return what it reached and took."""
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.keep / f"{recipe}-{seed}" if arguments.keep else Path(folder) / "run"
        command = [sys.executable, "-m", "boxwright", "train", "--data", str(arguments.data), "--format", "coco"]
        name, *changes = recipe.split("@")
        command += ["--recipe", name, "--seed", str(seed), "--output", str(run)]
        command += [part for change in [*arguments.set, *changes] for part in ("--set", change)]
        start = time.monotonic()
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - start
            if status:
                log.seek(0)
                raise SystemExit(f"{' '.join(command)} failed:\n{log.read()[-2000:]}")
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        batch = yaml.safe_load((run / "recipe.yaml").read_text())["data"]["batch_size"]
    final = [row for row in rows if row["kind"] == "eval"][-1]
    steps = [batch / row["images_per_s"] for row in rows if row["kind"] == "train"]
    return {
        "AP": round(final["AP"], 4),
        "AP50": round(final["AP50"], 4),
        "classes": {name: None if ap is None else round(ap, 4) for name, ap in final["AP_of_class"].items()},
        "epochs": final["epoch"],
        "step_ms": round(1000 * statistics.median(steps), 1),
        "seconds": round(seconds),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime),
        "peak_MiB": round(usage.ru_maxrss / 1024),
    }


def table(trainings: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Lay the results out in Markdown, the best AP first."""
    mean = {recipe: statistics.mean(run["AP"] for run in runs.values()) for recipe, runs in trainings.items()}
    classes = list(next(iter(next(iter(trainings.values())).values()))["classes"])
    header = ["recipe", "AP", "seeds", "AP50", *[f"AP {name}" for name in classes], "step ms", "minutes", "peak MiB"]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for recipe in sorted(mean, key=mean.__getitem__, reverse=True):
        runs = list(trainings[recipe].values())
        aps = [run["AP"] for run in runs]
        spread = f" ± {statistics.stdev(aps):.3f}" if len(runs) > 1 else ""
        per_class = [statistics.mean(run["classes"][name] for run in runs) for name in classes]
        middle = {key: statistics.median(run[key] for run in runs) for key in ("step_ms", "seconds", "peak_MiB")}
        cells = [f"`{recipe}`", f"{mean[recipe]:.3f}{spread}", str(len(runs))]
        cells += [f"{ap:.3f}" for ap in (statistics.mean(run["AP50"] for run in runs), *per_class)]
        cells += [f"{middle['step_ms']:.0f}", f"{middle['seconds'] / 60:.1f}", f"{middle['peak_MiB']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipes", default=",".join(f"{name}-tiny" for name in DENSE.split()))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="changes of all recipes, as in boxwright train")
    parser.add_argument("--name", required=True, help="of the results file")
    parser.add_argument("--threads", type=int, default=2, help="of each training")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs")
    arguments = parser.parse_args()
    file = RESULTS / f"recipes_{arguments.name}.json"
    results = json.loads(file.read_text()) if file.exists() else {"trainings": {}}
    results |= {
        "machine": f"{platform.machine()}, {arguments.threads} threads each, {arguments.jobs} at once, "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "command": "python " + " ".join(sys.argv),
    }
    todo = [
        (recipe, seed)
        for seed in range(arguments.seeds)
        for recipe in arguments.recipes.split(",")
        if str(seed) not in results["trainings"].get(recipe, {})
    ]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = {pool.submit(train, recipe, seed, arguments): (recipe, seed) for recipe, seed in todo}
        for job in as_completed(jobs):
            recipe, seed = jobs[job]
            results["trainings"].setdefault(recipe, {})[str(seed)] = job.result()
            file.write_text(json.dumps(results, indent=1) + "\n")
            print(recipe, seed, job.result(), flush=True)
    print(table(results["trainings"]))


if __name__ == "__main__":
    main()
