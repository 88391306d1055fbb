"""The benchmark for a GPU, where there is none: its calls run on the device without memory, and rows are kept."""

import importlib
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
import torch

from boxwright.losses import giou_loss

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def cuda_losses(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with clocks that call everything once and say 1."""
    pytest.importorskip("triton")
    monkeypatch.syspath_prepend(str(FOLDER))
    script = importlib.import_module("cuda_losses")

    def clock(calls: list[Callable[[], object]], graph: bool) -> float:
        assert all(result.device.type == "meta" for result in (call() for call in calls) if result is not None)
        return 1.0

    patches = {"DEVICE": "meta", "CACHE": 2, "microseconds": clock, "peak": lambda *_: 1.0, "fill": lambda *_: None}
    for name, patch in patches.items():
        monkeypatch.setattr(script, name, patch)
    # torchvision's select by mask, which the device without memory cannot
    monkeypatch.setattr(importlib.import_module("box_losses"), "PEERS", {"torchvision GIoU": giou_loss})
    return script


def test_every_call_runs_on_the_device(cuda_losses: ModuleType, tmp_path: Path) -> None:
    rows = chain(cuda_losses.classification(2, 5, torch.bfloat16), cuda_losses.pairs(6))
    cuda_losses.record(rows, {"device": "none"}, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    names = [row["loss"] for row in written["rows"]]
    assert written["device"] == "none"
    assert {"torchvision focal", *cuda_losses.LOSSES, "torchvision GIoU", "SIoU", "GHM-R"} <= set(names)
    assert all("graph / torchvision" in row for row in written["rows"] if row["loss"] in cuda_losses.LOSSES)


def test_a_failure_loses_nothing_but_its_own_row(cuda_losses: ModuleType, tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, object]]:
        yield {"logits": "6 pairs", "loss": "first", "eager us": 2.0}
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        cuda_losses.record(rows(), {}, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["rows"][0]["eager us"] == 2.0
