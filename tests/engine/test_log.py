"""What a run writes down about its losses."""

import pytest
import torch

from boxwright.engine.log import LossMeter
from boxwright.engine.loop import StepResult


def step(first, second, bad=0):
    return StepResult(("a", "b"), torch.tensor([first, second]), torch.tensor(float(bad)), images=4)


def test_the_mean_of_the_finite_steps_since_the_last_look():
    meter = LossMeter()
    for result in (step(1.0, 2.0), step(float("nan"), 9.0, bad=1), step(2.0, 5.0), step(3.0, float("inf"), bad=1)):
        meter.add(result)
    assert meter.images == 16
    assert meter.read() == pytest.approx({"a": 1.5, "b": 3.5})
    assert meter.read() == {}
    meter.add(step(7.0, 8.0))
    assert meter.images == 4
    assert meter.read() == {"a": 7, "b": 8}
