"""Fixtures of the engine's tests."""

import pytest
import torch
from lightning_fabric import Fabric

from boxwright.data.synth import write_synthetic
from tiny_training import TinyDetector


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return TinyDetector()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A minute data set, written anew for each test file."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_synthetic(folder, train=8, val=4, size=64)
    return folder
