"""Several processes rank the global batch as one process would, however it is split."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from interpreted_cases import environment

WORKER = Path(__file__).with_name("ranking_processes.py")


every_split = pytest.mark.parametrize(
    ("bounds", "without_objects"),
    [((0, 2, 4), ()), ((0, 3, 3, 4), ()), ((0, 1, 3, 4), (0,)), ((0, 0, 4), range(4))],
    ids=["two", "three, one without an image", "three, one without an object", "two, no object at all"],
)


@every_split
def test_processes_agree_with_one(tmp_path: Path, bounds: tuple[int, ...], without_objects: Sequence[int]) -> None:
    agree(tmp_path, bounds, without_objects, "eager", dict(os.environ), tolerance=1e-11)


@pytest.mark.slow
@every_split
def test_kernels_in_processes_agree_with_one(
    tmp_path: Path, bounds: tuple[int, ...], without_objects: Sequence[int]
) -> None:
    agree(tmp_path, bounds, without_objects, "fused", environment(), tolerance=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
@every_split
def test_processes_on_a_gpu_agree_with_one(
    tmp_path: Path, bounds: tuple[int, ...], without_objects: Sequence[int]
) -> None:
    agree(tmp_path, bounds, without_objects, "cuda", dict(os.environ), tolerance=1e-7)


def agree(
    folder: Path,
    bounds: tuple[int, ...],
    without_objects: Sequence[int],
    way: str,
    variables: dict[str, str],
    tolerance: float,
) -> None:
    specification = importlib.util.spec_from_file_location("ranking_processes", WORKER)
    worker = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(worker)
    logits = torch.randn(4, 30, 3, dtype=torch.float64).round(decimals=1)
    labels, quality = torch.randint(-2, 3, (4, 30)), torch.rand(4, 30).double()
    # ties among the positives of two processes, at the same place in both
    logits[2], labels[2] = logits[0], labels[0]
    labels[list(without_objects)] = -1
    world = len(bounds) - 1
    torch.save((logits, labels, quality, bounds), folder / f"problem{world}.pt")
    command = [sys.executable, WORKER]
    ranks = [subprocess.Popen([*command, str(rank), str(world), folder, way], env=variables) for rank in range(world)]
    assert [rank.wait(120) for rank in ranks] == [0] * world
    parts = [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]
    for name, expected in worker.update(logits.requires_grad_(), labels, quality).items():
        if name.endswith("loss"):
            joined = torch.stack([part[name] for part in parts]).mean()
        elif name.endswith("metric"):
            joined, expected = torch.stack([part[name] for part in parts]), expected.expand(world)
        else:
            joined = torch.cat([part[name] for part in parts]) / world
        torch.testing.assert_close(
            joined, expected, rtol=tolerance, atol=tolerance / 10, msg=lambda text, name=name: f"{name}: {text}"
        )
