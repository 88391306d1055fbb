"""Fixtures of the engine's tests."""

import pytest
import torch
from lightning_fabric import Fabric

from tiny_training import TinyDetector


@pytest.fixture
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return TinyDetector()
