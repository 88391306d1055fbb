"""Which precision a machine gets, and which processes."""

import pytest
import torch
from lightning_fabric.strategies import DDPStrategy

from boxwright.engine.device import build_fabric, precision_to_predict, resolve_precision
from boxwright.errors import RunError


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"),
    [(True, False, "bf16-mixed"), (False, True, "bf16-mixed"), (False, False, "32-true")],
)
def test_auto_on_a_cpu(monkeypatch, avx512, amx, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_on_a_gpu(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert resolve_precision("auto", "cuda") == expected


def test_what_is_asked_for_is_kept():
    assert resolve_precision("32-true", "cpu") == "32-true"
    assert resolve_precision("16-mixed", "cuda") == "16-mixed"
    with pytest.raises(RunError, match="16-mixed needs a GPU"):
        resolve_precision("16-mixed", "cpu")


def test_what_was_trained_in_half_precision_on_a_gpu_can_be_used_on_a_cpu():
    assert precision_to_predict("16-mixed", "cpu") == "32-true"
    assert precision_to_predict("16-mixed", "cuda") == "16-mixed"
    assert precision_to_predict("bf16-mixed", "cpu") == "bf16-mixed"


def test_more_gpus_than_there_are():
    with pytest.raises(RunError, match="this machine has"):
        build_fabric(devices=torch.cuda.device_count() + 1, accelerator="cuda")


def test_processes_are_joined_wherever_there_are_several():
    assert not isinstance(build_fabric(accelerator="cpu").strategy, DDPStrategy)
    for devices, nodes in ((2, 1), (1, 2)):
        strategy = build_fabric(devices, nodes, accelerator="cpu").strategy
        assert isinstance(strategy, DDPStrategy)
        assert (strategy.num_processes, strategy.num_nodes) == (devices, nodes)
