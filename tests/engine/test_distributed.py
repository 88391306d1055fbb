"""Two gloo processes against one process with the whole batch."""

import copy
import os
import socket
from dataclasses import replace
from itertools import islice

import pytest
import torch
import torch.multiprocessing as mp

from boxwright.data.dataset import Batch
from boxwright.engine.device import build_fabric
from boxwright.engine.guard import NonFiniteGuard
from boxwright.engine.loop import Trainer, grouped
from boxwright.engine.schedule import Schedule
from boxwright.errors import RunError
from boxwright.recipes import build_detector
from boxwright.recipes.training import OptimizerConfig
from tiny_training import tiny_loader, tiny_recipe

PLAIN = OptimizerConfig(type="sgd", lr=1.0, weight_decay=0.0, momentum=0.0)
SCENARIOS = [("none", False), ("one rank", False), ("one rank", True), ("all", False)]
RECIPE = ("data.batch_size=8", "detector.backbone.norm=frozen-bn", "detector.neck.norm=none")


def whole_batches(background):
    """Two batches of 8; rank r of 2 gets the images r, r + 2, …. With `background`, rank 1 has no objects at all."""
    batches = list(islice(tiny_loader(tiny_recipe(*RECIPE), images=16).epoch(0), 2))
    for batch in batches:
        if background == "one rank":
            batch.targets.valid[1::2] = False
        elif background == "all":
            batch.targets.valid[:] = False
    return batches


def share(batch, rank):
    fields = (batch.images, batch.targets, batch.sizes, batch.original_sizes)
    images, targets, sizes, originals = (
        field[rank::2] if isinstance(field, torch.Tensor) else field.map(lambda tensor: tensor[rank::2])
        for field in fields
    )
    return Batch(images, targets, sizes, originals, batch.image_ids[rank::2])


def train_steps(fabric, groups, check=lambda fabric, detector: None):
    """Losses of every step, and the weights and their average after them."""
    torch.manual_seed(0)
    detector = build_detector(tiny_recipe(*RECIPE), ["a", "b", "c", "d"]).train()
    constant = Schedule("step", total_steps=9)
    trainer = Trainer(fabric, detector, PLAIN, constant, clip_norm=5.0, ema_decay=0.9, check=check(fabric, detector))
    losses = torch.stack([trainer.step(group).terms for group in groups])
    return losses, copy.deepcopy(detector.state_dict()), trainer.ema.detector.state_dict()


def spoilt(batch, rank):
    """The batch as it is for rank 0, with a pixel that is not a number for rank 1."""
    images = batch.images / 255
    images[0, 0, 0, 0] = float("nan") if rank == 1 else 0.0
    return replace(batch, images=images)


def stop_together(fabric, folder):
    """One rank meets a loss that is not finite; both must stop, and say what the one has seen."""
    detector = build_detector(tiny_recipe(*RECIPE), ["a", "b", "c", "d"]).train()
    guard = NonFiniteGuard(fabric, detector, folder, "stop")
    batch = spoilt(share(whole_batches("none")[0], fabric.global_rank), fabric.global_rank)
    trainer = Trainer(fabric, detector, PLAIN, Schedule("step", total_steps=9), check=guard.check)
    try:
        trainer.step([batch])
    except RunError as error:
        return str(error)
    return ""


def skip_together(fabric, folder):
    """One rank skips, so both do; the step after it is taken by both."""
    batches = [share(batch, fabric.global_rank) for batch in whole_batches("none")]
    guards = []

    def check(fabric, detector):
        guards.append(NonFiniteGuard(fabric, detector, folder, "skip"))
        return guards[0].check

    _, weights, _ = train_steps(fabric, [[spoilt(batches[0], fabric.global_rank)], [batches[1]]], check)
    return guards[0].skipped, weights


def in_process(rank, port, folder):
    """Run every scenario in one of two processes, since starting them takes most of the time."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    torch.set_num_threads(1)
    fabric = build_fabric(devices=2, precision="32-true", accelerator="cpu")
    fabric.launch()
    results = {"world_size": fabric.world_size}
    for background, accumulate in SCENARIOS:
        batches = [share(batch, rank) for batch in whole_batches(background)]
        results[background, accumulate] = train_steps(fabric, grouped(batches, 1 + accumulate))
    results["stop"] = stop_together(fabric, folder / "nonfinite")
    results["skip"] = skip_together(fabric, folder / "nonfinite")
    torch.save(results, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the two processes found, and the folder they wrote to."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(in_process, (port, folder), nprocs=2, start_method="spawn")
    results = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    assert [result["world_size"] for result in results] == [2, 2]
    return results, folder


@pytest.mark.parametrize(("background", "accumulate"), SCENARIOS)
def test_two_processes_equal_one_with_the_whole_batch(fabric, both, background, accumulate):
    losses, weights, average = train_steps(fabric, grouped(whole_batches(background), 1 + accumulate))
    first, second = (result[background, accumulate] for result in both[0])
    # a process's losses are its sums over the global mean, so that their mean is the loss of the whole batch
    torch.testing.assert_close((first[0] + second[0]) / 2, losses, rtol=1e-4, atol=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(first[1][name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(first[1][name], second[1][name])
        torch.testing.assert_close(first[2][name], average[name], rtol=1e-4, atol=1e-5)


def test_processes_stop_together_at_a_loss_that_is_not_finite(both):
    (first, second), folder = both
    assert first["stop"] == second["stop"]
    assert "images (1 NaN" in first["stop"]
    assert [path.name for path in (folder / "nonfinite").iterdir()] == ["step-000000-1-0.pt"]


def test_processes_skip_together(fabric, both):
    (first, second), _ = both
    assert first["skip"][0] == second["skip"][0] == 1
    _, weights, _ = train_steps(fabric, [[whole_batches("none")[1]]])
    for name, value in weights.items():
        torch.testing.assert_close(first["skip"][1][name], value, rtol=1e-4, atol=1e-5)
