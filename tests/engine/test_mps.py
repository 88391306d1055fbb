"""A whole run on Apple's MPS, pretended: begun on a CPU, resumed, evaluated and looked at there."""

import importlib
from functools import partial

import pytest
import torch
from lightning_fabric.accelerators import MPSAccelerator

from boxwright.engine import load, train
from boxwright.engine.device import build_fabric, memory_format, resolve_precision
from boxwright.engine.predict import predict_files
from boxwright.engine.score import evaluate_source, open_data
from pretended_mps import DEVICE, pretended_mps

RECIPE = [
    "data.size=64", "data.batch_size=4", "data.workers=0", "schedule.epochs=1", "train.eval_every=1", "train.ema=0.9",
    "train.precision=32-true", "train.clip_norm=10", "optimizer.type=adamw", "detector.inference.score_threshold=0",
]  # fmt: skip


@pytest.fixture
def on_mps(monkeypatch):
    """Within it, trainings run on the pretended device."""
    monkeypatch.setattr(MPSAccelerator, "is_available", lambda: True)
    trains = importlib.import_module("boxwright.engine.train")
    monkeypatch.setattr(trains, "build_fabric", partial(build_fabric, accelerator="mps"))
    with pretended_mps():
        yield


def test_a_run_of_a_cpu_goes_on_and_is_used_there(scenes, tmp_path, request):
    begun = train("retinanet-ghm-tiny", scenes, overrides=RECIPE, output=tmp_path / "run", quiet=True)
    index = open_data(begun.path, None)
    request.getfixturevalue("on_mps")
    run = train(resume=begun.path, overrides=["schedule.epochs=2"], on_nonfinite="skip", quiet=True)
    assert run.state()["epoch"] == 2
    detector = load(run.path, device=DEVICE)
    assert all(tensor.device == DEVICE and tensor.is_contiguous() for tensor in detector.state_dict().values())
    [first, *_] = predict_files(detector, [scenes / "images" / "val"], tmp_path / "pictures", score=0)
    assert first.objects
    here, there = (evaluate_source(run.path, index, device=device) for device in ("cpu", DEVICE))
    scores, expected = ([one["score"] for one in metrics.predictions] for metrics in (there, here))
    assert scores == pytest.approx(expected, abs=1e-4)
    assert there.stats == pytest.approx(here.stats, abs=1e-3, nan_ok=True)


def test_choices_for_the_device():
    assert memory_format(DEVICE) is torch.contiguous_format
    assert memory_format(torch.device("cuda")) is memory_format(torch.device("cpu")) is torch.channels_last
    assert resolve_precision("auto", "mps") == "32-true"
