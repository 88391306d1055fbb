"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples on every run, and no verdict on how busy the machine is.
settings.register_profile(
    "boxwright", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("boxwright")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of golden data and real data sets that lies beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("../shared (golden data and real data sets) is not beside this checkout")
    return SHARED


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["BOXWRIGHT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
