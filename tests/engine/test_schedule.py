"""The learning rate against figures worked out by hand and against torch's own schedulers."""

import math

import pytest
import torch

from boxwright.engine.schedule import Schedule
from boxwright.recipes import load_recipe


def test_warm_up_and_staircase_of_the_published_recipe():
    config = load_recipe("retinanet").schedule
    schedule = Schedule.from_config(config, steps_per_epoch=7500)
    assert schedule.total_steps == 90_000
    assert schedule.factor(0) == pytest.approx(0.333)
    assert schedule.factor(250) == pytest.approx(0.6665)
    assert schedule.factor(500) == 1
    assert schedule.factor(59_999) == 1
    assert schedule.factor(60_000) == pytest.approx(0.1)
    assert schedule.factor(82_500) == pytest.approx(0.01)


def test_cosine_equals_torch():
    schedule = Schedule("cosine", total_steps=50, final=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.2)
    for step in range(50):
        assert 2.0 * schedule.factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        reference.step()
    assert schedule.factor(50) == schedule.factor(80) == pytest.approx(0.1)


def test_warm_up_multiplies_the_cosine():
    schedule = Schedule("cosine", total_steps=100, warmup_steps=10, warmup_start=0.0)
    assert schedule.factor(0) == 0
    assert schedule.factor(5) == pytest.approx(0.5 * 0.5 * (1 + math.cos(math.pi * 0.05)))


def test_apply_keeps_the_ratio_of_the_groups():
    parameters = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    groups = [
        {"params": [parameters[0]], "lr": 1.0, "initial_lr": 1.0},
        {"params": [parameters[1]], "lr": 0.1, "initial_lr": 0.1},
    ]
    optimizer = torch.optim.SGD(groups)
    schedule = Schedule("step", total_steps=10, milestones=(5,))
    for step in (7, 2, 7):
        schedule.apply(optimizer, step)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.01])


def test_warm_up_longer_than_the_training_is_cut():
    config = load_recipe("retinanet-tiny", ["schedule.epochs=1", "schedule.warmup_steps=1000"]).schedule
    assert Schedule.from_config(config, steps_per_epoch=5).warmup_steps == 5
