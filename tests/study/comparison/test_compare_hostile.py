"""A comparison that cannot be made, or whose files were damaged, says why and what to do."""

import errno
import json
import signal
import subprocess
import sys
import time

import pytest

from boxwright.data.synth import write_synthetic
from boxwright.engine import Run
from boxwright.errors import DataError, RecipeError, RunError
from boxwright.study import compare
from boxwright.study.comparison.budget import fitting_epochs
from boxwright.study.comparison.runs import finished, run_one
from compared import CHANGES, Here, specs

ONE_EPOCH = [*CHANGES, "schedule.epochs=1"]


class Failing(Here):
    """A run of gfl-tiny that fails."""

    def __init__(self, spec):
        super().__init__(spec)
        if spec.name == "gfl-tiny":
            self.result = self.fail

    def fail(self):
        raise RunError("the loss is not finite.")


@pytest.fixture
def engine(monkeypatch):
    """Let a test choose what does the runs."""

    def choose(job):
        monkeypatch.setattr("boxwright.study.comparison.compare.submitter", lambda *arguments: job)

    return choose


def broken_set(path, split):
    """Write a data set with an image that is cut off behind its header."""
    write_synthetic(path, train=8, val=6, size=64)
    image = sorted((path / "images" / split).iterdir())[1]
    image.write_bytes(image.read_bytes()[:20])
    return path


def test_recipes_and_seeds_that_are_not_there_are_told(scenes, tmp_path):
    with pytest.raises(RecipeError, match="gfl-tinny"):
        compare(scenes, ["retinanet-tiny", "gfl-tinny"], output=tmp_path / "out")
    with pytest.raises(RecipeError, match="at least one seed and one job, got seeds = 0"):
        compare(scenes, ["retinanet-tiny"], seeds=0, output=tmp_path / "out")
    with pytest.raises(RecipeError, match="needs recipes"):
        compare(scenes, [], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_validation_images_without_objects_stop_it_before_the_first_run(tmp_path):
    write_synthetic(tmp_path / "data", train=8, val=4, size=64)
    [file] = (tmp_path / "data").rglob("*val*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    with pytest.raises(DataError, match="split 'val' has no objects, so there is nothing to measure"):
        compare(tmp_path / "data", ["retinanet-tiny"], output=tmp_path / "out", overrides=ONE_EPOCH)


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_that_cannot_be_read_stop_it_before_the_first_run(tmp_path, split):
    data = broken_set(tmp_path / "data", split)
    with pytest.raises(DataError, match=r"scene-000001.png.*; or leave them out with --skip-bad"):
        compare(data, ["retinanet-tiny"], output=tmp_path / "out", overrides=ONE_EPOCH)


def test_images_that_cannot_be_read_are_left_out_when_asked(tmp_path, engine):
    engine(Here)
    data, lines = broken_set(tmp_path / "data", "val"), []
    report = compare(
        data, ["retinanet-tiny"], seeds=1, output=tmp_path / "out", overrides=ONE_EPOCH, skip_bad=True,
        progress=lines.append,
    )  # fmt: skip
    assert report["data"]["images"] == 5
    assert any("skipped: " in line and "scene-000001.png" in line for line in lines)
    assert report["command"].endswith(f"--skip-bad --recipes retinanet-tiny --seeds 1 {sets()} --output {tmp_path}/out")
    [run] = report["recipes"][0]["runs"]
    assert "--skip-bad" in run["command"]


def sets():
    return " ".join(f"--set {change}" for change in ONE_EPOCH)


def test_a_recipe_whose_runs_failed_is_left_out_and_named(scenes, tmp_path, engine):
    engine(Failing)
    arguments = {"seeds": 1, "output": tmp_path, "overrides": ONE_EPOCH}
    report = compare(scenes, ["retinanet-tiny", "gfl-tiny"], **arguments)
    assert report["verdict"]["headline"] == "No winner can be named"
    assert report["verdict"]["text"].startswith("gfl-tiny has no finished run and is left out. retinanet-tiny: AP 0.")
    assert report["failures"] == [{"name": "gfl-tiny", "seed": 0, "reason": "the loss is not finite."}]
    assert "the loss is not finite" in (tmp_path / "compare.html").read_text()


def test_without_any_finished_run_it_says_why_and_what_to_do(scenes, tmp_path, engine):
    engine(Failing)
    with pytest.raises(RunError) as caught:
        compare(scenes, ["gfl-tiny"], seeds=3, output=tmp_path, overrides=ONE_EPOCH)
    assert str(caught.value) == (
        "none of 3 runs has finished, so there is nothing to compare. gfl-tiny seed 0 and 2 more: the loss is not "
        f"finite. Once that is fixed, the same command continues; what the runs wrote is in {tmp_path / 'runs'}"
    )
    assert not (tmp_path / "compare.html").exists()


@pytest.mark.parametrize("damaged", ["checkpoints/last.pt", "recipe.yaml", "environment.json"])
def test_a_damaged_run_is_not_gone_on_with(scenes, tmp_path, damaged):
    [spec] = specs(scenes, tmp_path, recipes=["retinanet-tiny"])
    run_one(spec)
    (spec.path / "cost.json").write_text("[]")  # as if it had been killed before it was done
    assert finished(spec) is None
    (spec.path / damaged).write_text("{")
    with pytest.raises(RunError, match=rf"Delete {spec.path}, and the same command trains it again"):
        run_one(spec)


def test_damaged_files_of_a_finished_comparison_are_named(scenes, tmp_path, engine):
    engine(Here)
    arguments = {"seeds": 1, "output": tmp_path, "overrides": ONE_EPOCH}
    compare(scenes, ["retinanet-tiny"], **arguments)
    [run] = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    (run / "predictions.json").write_text("[{")
    with pytest.raises(RunError, match=r"predictions\.json.*Delete the run's folder, and the same command trains it"):
        compare(scenes, ["retinanet-tiny"], **arguments)
    (tmp_path / "budget.json").write_text("{")
    with pytest.raises(RunError, match=r"budget\.json is damaged: .*; delete it"):
        fitting_epochs([], 1, 60, 1, tmp_path / "budget.json", print)


def test_a_full_disk_or_a_file_in_place_of_the_folder_is_told(scenes, tmp_path, engine, monkeypatch):
    engine(Here)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=rf"cannot write to {tmp_path / 'file'}: "):
        compare(scenes, ["retinanet-tiny"], output=tmp_path / "file", overrides=ONE_EPOCH)

    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("boxwright.study.comparison.report_files.write_text", full)
    with pytest.raises(RunError, match="No space left on device; the runs in it are kept"):
        compare(scenes, ["retinanet-tiny"], seeds=1, output=tmp_path / "out", overrides=ONE_EPOCH)


def command(scenes, folder, *changes):
    words = ["compare", "--data", scenes, "--recipes", "retinanet-tiny", "--seeds", "1", "--output", folder]
    words += [word for change in (*CHANGES, *changes) for word in ("--set", change)]
    # a job in the background is born deaf to Ctrl-C
    deaf = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler), "start_new_session": True}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "boxwright", *map(str, words)], **pipes, **deaf)


@pytest.mark.slow
def test_ctrl_c_stops_the_runs_and_says_how_to_go_on(scenes, tmp_path):
    process = command(scenes, tmp_path, "schedule.epochs=500")
    while process.poll() is None and not list(tmp_path.glob("runs/*/checkpoints/last.pt")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2, errors
    assert "interrupted; the same command resumes each run from its last finished epoch" in errors
    assert "Traceback" not in errors
    [state] = tmp_path.glob("runs/*/checkpoints/last.pt")
    before = state.stat().st_mtime_ns
    time.sleep(2)
    assert state.stat().st_mtime_ns == before  # the run has died with it


@pytest.mark.slow
def test_two_comparisons_in_one_folder_share_the_work(scenes, tmp_path):
    both = [command(scenes, tmp_path, "schedule.epochs=4") for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    [run] = [Run(path) for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    assert len(run.environments) == 1
    assert len([record for record in run.metrics() if record["kind"] == "eval"]) == 4
