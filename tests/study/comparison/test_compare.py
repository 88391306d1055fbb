"""A comparison in earnest: held together by files, killed, gone on with, found again, the same on every engine."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from boxwright.data.synth import write_synthetic
from boxwright.engine import Run
from boxwright.engine.checkpoint import load_state
from boxwright.errors import RecipeError
from boxwright.study import compare
from boxwright.study.comparison.budget import Pace, fitting_epochs
from boxwright.study.comparison.runs import finished
from compared import CHANGES, Here, specs


def test_two_recipes_are_compared_and_found_again(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("boxwright.study.comparison.compare.submitter", lambda *arguments: Here)
    lines = []
    arguments = {"seeds": 2, "overrides": [*CHANGES, "schedule.epochs=1"], "output": tmp_path / "out", "jobs": 2}
    report = compare(scenes, ["retinanet-tiny", "gfl-tiny"], progress=lines.append, **arguments)
    assert [recipe["name"] for recipe in report["recipes"]] == ["retinanet-tiny", "gfl-tiny"]
    assert [len(recipe["runs"]) for recipe in report["recipes"]] == [2, 2]
    assert report["failures"] == []
    assert report["winner"] is None
    for recipe in report["recipes"]:
        for run in recipe["runs"]:
            assert run["seconds_per_step"] > 0
            assert run["peak_memory"] > 2e8
            assert [point["epoch"] for point in run["curve"]] == [1]
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == json.loads(json.dumps(report))
    assert "gfl-tiny" in (tmp_path / "out" / "compare.md").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")}
    lines.clear()
    again = compare(scenes, ["retinanet-tiny", "gfl-tiny"], progress=lines.append, **arguments)
    assert "runs: 4, of which 4 are done already" in lines
    assert again == report
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")} == before


def test_runs_are_found_by_resolved_recipe_and_content_of_the_data(scenes, tmp_path):
    one, other = specs(scenes, tmp_path), specs(scenes, tmp_path, epochs=2)
    assert len({spec.path for spec in [*one, *other]}) == 4
    moved = tmp_path / "moved"
    write_synthetic(moved, train=16, val=8, size=64)
    assert specs(moved, tmp_path)[0].path == one[0].path
    fewer = tmp_path / "fewer"
    write_synthetic(fewer, train=15, val=8, size=64)
    assert specs(fewer, tmp_path)[0].path != one[0].path


def test_budget_is_the_same_number_of_epochs_for_all_and_kept(scenes, tmp_path, monkeypatch):
    paces = {"retinanet-tiny": Pace(2, 0.1, 1, 0.5), "gfl-tiny": Pace(2, 0.3, 3, 0.5)}
    monkeypatch.setattr("boxwright.study.comparison.budget.pace", lambda spec: paces.pop(spec.name))
    wanted = specs(scenes, tmp_path, epochs=20)
    file = tmp_path / "budget.json"
    # evaluated once an epoch up to ten times: 2 seeds of both take 2 (4 + 5 e) seconds, of which 0.9 · 100 are planned
    assert fitting_epochs(wanted, 2, 100, 1, file, print) == 8
    assert fitting_epochs(wanted, 2, 100, 1, file, print) == 8  # the pace was not measured again
    paces |= {"retinanet-tiny": Pace(2, 0.1, 1, 0.5), "gfl-tiny": Pace(2, 0.3, 3, 0.5)}
    assert fitting_epochs(wanted, 2, 10000, 1, file, print) == 20
    paces |= {"retinanet-tiny": Pace(2, 0.1, 1, 0.5), "gfl-tiny": Pace(2, 0.3, 3, 0.5)}
    with pytest.raises(RecipeError, match="--budget: 2 recipes × 2 seeds take about 20 s with one epoch"):
        fitting_epochs(wanted, 2, 10, 1, file, print)


@pytest.mark.slow
def test_pace_is_measured_by_steps_of_the_training(scenes, tmp_path):
    epochs = fitting_epochs(specs(scenes, tmp_path, epochs=3)[:1], 1, 3600, 1, tmp_path / "budget.json", print)
    assert epochs == 3
    (measured,) = json.loads((tmp_path / "budget.json").read_text()).values()
    found = measured["retinanet-tiny"]
    assert 0 < found["step"] <= found["epoch"]
    assert found["start"] > 0.5
    assert found["evaluation"] > 0


SCRIPT = """
import sys
from boxwright.study import compare
compare(sys.argv[1], ["retinanet-tiny", "gfl-tiny"], seeds=1, output=sys.argv[2], jobs=2, overrides=sys.argv[3:])
"""


@pytest.mark.slow
def test_a_killed_comparison_loses_at_most_the_epoch_under_way(scenes, tmp_path):
    changes = [*CHANGES, "schedule.epochs=6"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(folder):
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(scenes), str(folder), *changes], env=environment)

    folder = tmp_path / "killed"
    runs = specs(scenes, folder / "runs", epochs=6)
    seen = {spec.path: 0 for spec in runs}
    for wanted in (1, 3, 5, 6):
        process = start(folder)
        while process.poll() is None and max(map(epochs, runs)) < wanted:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        at_death = {spec.path: epochs(spec) for spec in runs}
        time.sleep(1)  # the runs have died with it: nothing goes on
        for spec in runs:
            assert at_death[spec.path] <= epochs(spec) <= at_death[spec.path] + 1
            assert epochs(spec) >= seen[spec.path]
            evaluated = [record["epoch"] for record in Run(spec.path).metrics() if record["kind"] == "eval"]
            assert epochs(spec) >= len(evaluated) - 1
            seen[spec.path] = epochs(spec)
    assert start(folder).wait() == 0
    assert start(tmp_path / "straight").wait() == 0
    for killed, straight in zip(runs, specs(scenes, tmp_path / "straight" / "runs", epochs=6), strict=True):
        assert finished(killed) is not None
        assert Run(killed.path).predictions() == Run(straight.path).predictions()
        ours, theirs = (load_state(Run(spec.path).state_file)["detector"] for spec in (killed, straight))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def epochs(spec):
    file = Run(spec.path).state_file
    return load_state(file)["epoch"] if file.exists() else 0
