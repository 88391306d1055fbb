"""`train` from a folder on the disk to a run folder, and what it refuses."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import torch

import boxwright
from boxwright.data.synth import write_synthetic
from boxwright.engine import Run, train
from boxwright.engine.anchors import settle_anchors
from boxwright.engine.checkpoint import load_weights
from boxwright.engine.folder import RUNS
from boxwright.engine.score import open_data
from boxwright.errors import DataError, RecipeError, RunError
from boxwright.recipes import load_recipe

SMALL = (
    "data.size=64", "data.batch_size=4", "data.workers=0", "schedule.epochs=2", "train.eval_every=1",
    "train.precision=32-true",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    return train("retinanet-tiny", scenes, overrides=SMALL, output=tmp_path_factory.mktemp("runs") / "run", quiet=True)


def test_a_run_folder_is_complete(trained, scenes):
    names = {path.name for path in trained.path.iterdir()}
    assert names == {
        "recipe.yaml", "classes.json", "data.json", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints",
        "predictions.json", ".lock",
    }  # fmt: skip
    assert {path.name for path in (trained.path / "checkpoints").iterdir()} == {
        "last.pt", "last.safetensors", "best.safetensors",
    }  # fmt: skip
    assert trained.recipe.schedule.epochs == 2
    assert trained.classes == ["leaf", "ring", "starfish", "gear"]
    assert trained.data["path"] == str(scenes)
    [environment] = json.loads((trained.path / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["processes"] == 1
    results = json.loads((trained.path / "predictions.json").read_text())
    assert all(result.keys() == {"image_id", "category_id", "bbox", "score"} for result in results)


def test_the_run_loads_as_a_detector(trained):
    detector = boxwright.load(trained.path)
    detections = detector([torch.zeros(3, 50, 70, dtype=torch.uint8)])
    assert len(detections) == 1
    assert detector.class_names == ("leaf", "ring", "starfish", "gear")


def test_resume_needs_only_the_run_and_takes_overrides(scenes, tmp_path):
    constant = [*SMALL, "schedule.type=step", "schedule.warmup_steps=0"]
    straight = train("retinanet-tiny", scenes, overrides=constant, output=tmp_path / "a", quiet=True)
    train("retinanet-tiny", scenes, overrides=[*constant, "schedule.epochs=1"], output=tmp_path / "b", quiet=True)
    resumed = train(resume=tmp_path / "b", overrides=["schedule.epochs=2"], quiet=True)
    ours, theirs = (load_weights(run.weights_file("last")) for run in (straight, resumed))
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])
    assert resumed.recipe == straight.recipe
    assert len(json.loads((resumed.path / "environment.json").read_text())) == 2


def test_a_resume_takes_over_a_changed_learning_rate(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    changes = ["optimizer.lr=0.0005", "schedule.epochs=3", "schedule.type=step", "schedule.warmup_steps=0"]
    resumed = train(resume=tmp_path / "run", overrides=changes, quiet=True)
    assert [record["lr"] for record in resumed.metrics() if "lr" in record][-1] == 0.0005


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("detector.neck.channels=32", "does not fit the recipe or the classes: (.|\n)*The run is as it was"),
        ("optimizer={type: sgd, lr: 0.01, weight_decay: 0}", "it was trained with another optimizer.type"),
        ("optimizer.decay_norm_and_bias=true", "different number of parameter groups"),
    ],
)
def test_a_resume_that_does_not_fit_leaves_the_run_as_it_was(trained, tmp_path, change, words):
    path = tmp_path / "run"
    shutil.copytree(trained.path, path)
    with pytest.raises(RunError, match=words):
        train(resume=path, overrides=[change], quiet=True)
    assert (path / "recipe.yaml").read_text() == (trained.path / "recipe.yaml").read_text()
    assert (path / "environment.json").read_text() == (trained.path / "environment.json").read_text()


def test_resume_auto_takes_the_newest_unfinished_run(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = train("retinanet-tiny", scenes, overrides=[*SMALL, "schedule.epochs=1"], resume="auto", quiet=True)
    assert first.path == RUNS / "retinanet-tiny"
    second = train("retinanet-tiny", scenes, overrides=[*SMALL, "schedule.epochs=1"], resume="auto", quiet=True)
    assert second.path == RUNS / "retinanet-tiny-2"
    os.remove(second.state_file)
    os.remove(second.weights_file("last"))
    again = train("retinanet-tiny", scenes, resume="auto", quiet=True)
    assert again.path == second.path
    assert again.finished


def test_output_that_holds_a_run_is_not_overwritten(trained, scenes):
    with pytest.raises(RunError, match="holds a run already: choose another --output, or --resume"):
        train("retinanet-tiny", scenes, overrides=SMALL, output=trained.path, quiet=True)


def test_output_that_tensorboard_cannot_write_to_is_refused_at_once(scenes, tmp_path):
    with pytest.raises(RunError, match=r"TensorBoard cannot write to '.*run\\udcff', no UTF-8"):
        train("retinanet-tiny", scenes, overrides=SMALL, output=tmp_path / "run\udcff", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_of_two_trainings_that_start_at_once_the_second_is_refused(trained, scenes, tmp_path, monkeypatch):
    output = tmp_path / "run"

    def other_starts(*arguments):
        shutil.copytree(trained.path, output)
        return settle_anchors(*arguments)

    monkeypatch.setattr(sys.modules["boxwright.engine.train"], "settle_anchors", other_starts)
    before = (trained.path / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="run holds a run already: choose another --output"):
        train("retinanet-tiny", scenes, overrides=SMALL, output=output, quiet=True)
    assert (output / "metrics.jsonl").read_bytes() == before


def test_what_cannot_be_trained_is_said_before_the_first_epoch(scenes, tmp_path):
    with pytest.raises(RunError, match="needs a recipe and a data set"):
        train("retinanet-tiny", quiet=True)
    with pytest.raises(
        RecipeError, match=r"data.batch_size = 4 cannot be shared by 1 processes with train.accumulate = 3"
    ):
        train("retinanet-tiny", scenes, overrides=[*SMALL, "train.accumulate=3"], output=tmp_path / "x", quiet=True)
    with pytest.raises(RunError, match="16-mixed needs a GPU"):
        train(
            "retinanet-tiny", scenes, overrides=[*SMALL, "train.precision=16-mixed"], output=tmp_path / "y", quiet=True
        )
    with pytest.raises(RunError, match="is not a run folder"):
        train(resume=tmp_path / "nothing", quiet=True)


def test_bad_images_stop_the_training_or_are_left_out(tmp_path, capsys):
    folder = tmp_path / "scenes"
    write_synthetic(folder, train=8, val=4, size=64)
    for split in ("train", "val"):
        image = sorted((folder / "images" / split).iterdir())[1]
        image.write_bytes(image.read_bytes()[:20])
    with pytest.raises(DataError, match=r"scene-000001.png.*and 1 more image\); or leave them out with --skip-bad"):
        train("retinanet-tiny", folder, overrides=SMALL, output=tmp_path / "run", quiet=True)
    run = train("retinanet-tiny", folder, overrides=SMALL, output=tmp_path / "run", skip_bad=True)
    assert run.finished
    assert "skipped: " in capsys.readouterr().out


def test_plain_output_has_no_escape_codes(trained, scenes, tmp_path, capsys):
    train("retinanet-tiny", scenes, overrides=[*SMALL, "schedule.epochs=1"], output=tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "found: COCO, 12 images, 4 classes, splits train/val"
    assert any(line.startswith("epoch 1/1  AP ") for line in lines)
    assert lines[-1].endswith(f"weights: {tmp_path / 'run' / 'checkpoints' / 'best.safetensors'}")
    assert "\x1b" not in "".join(lines)


def test_resume_auto_leaves_runs_of_other_recipes_alone(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = Run.create(RUNS / "other", load_recipe("retinanet"), [], {"path": str(scenes)})
    run = train("retinanet-tiny", scenes, overrides=[*SMALL, "schedule.epochs=1"], resume="auto", quiet=True)
    assert run.path != other.path


def test_resume_refuses_other_classes(trained, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(trained.path, copied)
    (copied / "classes.json").write_text('["leaf"]')
    with pytest.raises(RunError, match=r"on the classes leaf; the data now has leaf, ring, .*; label 1 is the first"):
        train(resume=copied, quiet=True)


def command(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-m", "boxwright", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, env=environment, **pipes, **options)


def sets(*overrides):
    return [argument for override in overrides for argument in ("--set", override)]


@pytest.mark.slow
@pytest.mark.parametrize("send", [os.killpg, os.kill], ids=["terminal", "main process alone"])
def test_ctrl_c_says_how_to_resume(scenes, tmp_path, send):
    options = sets(*SMALL, "schedule.epochs=500", "data.workers=1")
    # a job in the background is born deaf to Ctrl-C
    hears = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), "start_new_session": True}
    process = command("train", "--data", scenes, "--recipe", "retinanet-tiny", "--output", tmp_path, *options, **hears)
    for line in process.stdout:
        if re.match(r"epoch ([2-9]|\d\d+)/500", line):
            break
    send(process.pid, signal.SIGINT)  # a terminal sends it to the workers as well
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 2, errors
    assert "interrupted. The checkpoint of epoch " in errors
    assert f"boxwright train --resume {tmp_path}" in errors
    assert "Traceback" not in errors
    assert Run.open(tmp_path).state()["epoch"] >= 1


@pytest.mark.slow
def test_files_that_cannot_grow_leave_the_last_checkpoint(scenes, tmp_path):
    train("retinanet-tiny", scenes, overrides=[*SMALL, "schedule.epochs=1"], output=tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes()

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))

    process = command("train", "--resume", tmp_path / "run", *sets("schedule.epochs=2"), preexec_fn=limit)
    _, errors = process.communicate(timeout=6000)
    assert process.returncode == 2, errors
    assert f"cannot write a checkpoint to {tmp_path / 'run'}: File too large. The checkpoint of" in errors
    assert "The checkpoint of epoch 1 is safe; resume with: boxwright train --resume" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes() == before
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_two_processes_are_launched_by_the_command(scenes, tmp_path):
    process = command(
        "train",
        "--data",
        scenes,
        "--recipe",
        "retinanet-tiny",
        "--devices",
        2,
        "--output",
        tmp_path / "run",
        *sets(*SMALL),
    )
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    run = Run.open(tmp_path / "run")
    assert run.finished
    assert json.loads((run.path / "environment.json").read_text())[0]["processes"] == 2
    assert output.count("found: COCO") == 1


def test_a_run_whose_data_has_moved_names_the_option(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    (run / "data.json").write_text(json.dumps(trained.data | {"path": str(tmp_path / "gone")}))
    for use in (lambda: train(resume=run, quiet=True), lambda: open_data(run, None)):
        with pytest.raises(RunError, match=r"there is no .*gone, where .*run has its data.* with --data PATH"):
            use()
    with pytest.raises(DataError, match=r"misspelt: no such file or folder"):  # said of what was given
        train(data=tmp_path / "misspelt", resume=run, quiet=True)


def test_resume_follows_moved_data_and_refuses_another_recipe(trained, scenes, tmp_path, capsys):
    shutil.copytree(trained.path, tmp_path / "run")
    shutil.copytree(scenes, tmp_path / "moved")
    with pytest.raises(RunError, match="is a run of retinanet-tiny, not of retinanet; leave --recipe out"):
        train("retinanet", resume=tmp_path / "run", quiet=True)
    run = train("retinanet-tiny", tmp_path / "moved", resume=tmp_path / "run", skip_bad=True)
    told = "".join(capsys.readouterr().out.splitlines())
    assert f"data: {tmp_path / 'moved'}, until now {scenes}" in told
    assert run.data == trained.data | {"path": str(tmp_path / "moved"), "skip_bad": True}


def test_a_bad_image_in_the_middle_says_how_to_go_on(scenes, tmp_path):
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    image = sorted((folder / "images" / "train").iterdir())[3]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2] + whole[-12:])  # header and end are fine
    with pytest.raises(DataError, match=r"scene-000003.*images out with --skip-bad.*boxwright train --resume"):
        train("retinanet-tiny", folder, overrides=SMALL, output=tmp_path / "run", quiet=True)
    assert train(resume=tmp_path / "run", skip_bad=True, quiet=True).finished


def test_what_a_recipe_takes_no_notice_of_is_said(scenes, tmp_path, capsys):
    overrides = [*SMALL, "schedule.epochs=1", "criterion.classification.type=ap", "criterion.soft_target=iou"]
    train("retinanet-tiny", scenes, overrides=overrides, output=tmp_path / "run")
    assert "criterion.soft_target=iou does not reach the classes" in capsys.readouterr().out


def without_objects(folder, split, classes=None):
    """Take the objects (of some classes) out of a split."""
    file = folder / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    content["annotations"] = [one for one in content["annotations"] if classes and one["category_id"] not in classes]
    file.write_text(json.dumps(content))


def test_objects_that_there_are_none_of_are_said(tmp_path, capsys):
    folder, options = tmp_path / "scenes", [*SMALL, "schedule.epochs=1"]
    write_synthetic(folder, train=8, val=4, size=64)
    without_objects(folder, "val")
    without_objects(folder, "train", classes=[2, 3])
    train("retinanet-tiny", folder, overrides=options, output=tmp_path / "run")
    output = capsys.readouterr().out
    assert "no object in train: ring, starfish\n" in output
    assert "no object in val: there will be no AP, and no report\n" in output
    without_objects(folder, "train")
    with pytest.raises(DataError, match="no image of train has an object, so that there is nothing to learn"):
        train("retinanet-tiny", folder, overrides=options, output=tmp_path / "other", quiet=True)
    assert not (tmp_path / "other").exists()


def test_a_batch_too_small_for_batch_norm_is_said(tmp_path):
    folder = tmp_path / "scenes"
    write_synthetic(folder, train=1, val=1, size=64)
    overrides = [*SMALL, "detector.neck.norm=bn", "detector.neck.extra_levels=2"]
    with pytest.raises(RunError, match=r"batch norm cannot learn from a batch of one image.*raise data\.batch_size"):
        train("retinanet-tiny", folder, overrides=overrides, output=tmp_path / "run", quiet=True)


def test_a_resume_clears_away_what_was_left_half_written_and_says_that_all_is_done(trained, capsys):
    left = [trained.path / ".recipe.yaml.123.tmp", trained.path / "checkpoints" / ".best.safetensors.123.tmp"]
    for file in left:
        file.write_text("half")
    train(resume=trained.path)
    assert "nothing left to train: 2 epochs done; for more, --set schedule.epochs=N" in capsys.readouterr().out
    assert not any(file.exists() for file in left)
