"""In torch's own DistributedDataParallel, every recipe has the gradients of one process with the whole batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipes.ddp_gradients import RECIPES, WORLD, gradients


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    worker = Path(__file__).with_name("ddp_gradients.py")
    ranks = [subprocess.Popen([sys.executable, worker, str(rank), folder]) for rank in range(WORLD)]
    assert [rank.wait(300) for rank in ranks] == [0] * WORLD
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_have_the_gradients_of_one(found, name):
    expected = gradients(name)
    assert found[0][name].keys() == expected.keys()
    size = torch.stack([gradient.norm() for gradient in expected.values()]).norm()
    for rank in range(WORLD):
        gaps = [(found[rank][name][key] - gradient).norm() for key, gradient in expected.items()]
        assert torch.stack(gaps).norm() < 1e-5 * size
