"""YOLO from a data set on the disk to a run that loads, resumes and exports like any other."""

import json

import pytest
import torch

import boxwright
from boxwright.engine import train
from boxwright.engine.checkpoint import load_weights
from boxwright.engine.export import ExportableDetector
from boxwright.errors import RecipeError
from boxwright.recipes import load_recipe
from overfitting import overfit

SMALL = [
    "data.size=64", "data.batch_size=4", "data.workers=0", "schedule.epochs=2", "train.eval_every=1",
    "train.precision=32-true", "detector.width=0.05", "detector.depth=0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    overrides = [*SMALL, "detector.multi_scale=[32,96]"]
    return train("yolov2-tiny", scenes, overrides=overrides, output=tmp_path_factory.mktemp("runs") / "a", quiet=True)


def test_the_run_has_fitted_anchors_and_knows_what_it_has_seen(trained):
    anchors = trained.recipe.detector.anchors
    assert len(anchors) == 5
    assert all(0 < side <= 64 for anchor in anchors for side in anchor)
    state, _ = load_weights(trained.weights_path)
    assert state["criterion.loss.seen"] in (8, 16)  # of the best epoch


def test_the_run_loads_predicts_and_exports(trained):
    detector = boxwright.load(trained.path)
    found = detector([torch.zeros(3, 50, 70, dtype=torch.uint8)])
    assert len(found) == 1
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    boxes, scores = torch.export.export(ExportableDetector(detector), (images,)).module()(images)
    assert boxes.shape == (1, 20, 4)
    assert scores.shape == (1, 20, 4)


def test_two_epochs_are_one_and_a_resumed_one(trained, scenes, tmp_path):
    overrides = [*SMALL, "detector.multi_scale=[32,96]", "schedule.type=step", "schedule.warmup_steps=0"]
    straight = train("yolov2-tiny", scenes, overrides=overrides, output=tmp_path / "a", quiet=True)
    train("yolov2-tiny", scenes, overrides=[*overrides, "schedule.epochs=1"], output=tmp_path / "b", quiet=True)
    resumed = train(resume=tmp_path / "b", overrides=["schedule.epochs=2"], quiet=True)
    one, other = (load_weights(run.weights_file("last"))[0] for run in (straight, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert one["criterion.loss.seen"] == 16


def test_yolov3_trains_too(scenes, tmp_path):
    run = train("yolov3-tiny", scenes, overrides=[*SMALL, "schedule.epochs=1"], output=tmp_path / "a", quiet=True)
    assert len(run.recipe.detector.anchors) == 9
    assert boxwright.load(run.path).criterion.seen == 8


def test_another_number_of_classes_is_told(scenes, tmp_path):
    file = tmp_path / "mine.yaml"
    cfg = "[net]\nheight=64\nwidth=64\n[convolutional]\nfilters=6\nsize=32\nstride=32\n[region]\nclasses=1\nsoftmax=1"
    detector = {"layout": None, "width": 1, "anchors": "published", "cfg": cfg}
    file.write_text(json.dumps({"base": "yolov2-tiny", "name": "mine", "detector": detector}))
    with pytest.raises(RecipeError, match=r"\[region\] detects 1 class, but there are 4: leaf, ring, starfish, gear"):
        train(file, scenes, overrides=["data.size=64"], output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("yolov3-tiny", 0.8), ("yolov2-tiny", 0.5)])
def test_it_learns_what_it_sees(name, least):
    """On eight scenes with 78 objects; YOLOv2 has nine cells of 32 pixels here, so that many objects share one."""
    narrow = ["data.size=96", "detector.width=0.2", "detector.depth=0.1", "detector.multi_scale=null"]
    found, said = overfit(load_recipe(name, narrow))
    assert found > least
    assert said <= 1.2
