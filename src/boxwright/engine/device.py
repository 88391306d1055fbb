"""Decisions that depend on the machine."""

import logging

import torch
from lightning_fabric import Fabric

from boxwright.errors import RunError

__all__ = ["build_fabric", "memory_format", "precision_to_predict", "resolve_precision"]


def build_fabric(devices: int = 1, nodes: int = 1, precision: str = "auto", accelerator: str = "auto") -> Fabric:
    """Set up the processes of a training; `launch` has still to be called.

    Args:
        devices: processes on each machine, one per GPU (or per share of the CPU).
        nodes: machines.
        precision: `auto` or one of Fabric's names.
        accelerator: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        RunError: the precision does not fit the device, or the machine has fewer GPUs.
    """
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        raise RunError(f"--devices {devices}: this machine has {torch.cuda.device_count()} GPUs")
    torch.set_float32_matmul_precision("high")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the run's first lines say the same
    return Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        precision=resolve_precision(precision, accelerator),  # type: ignore[arg-type]
    )


def resolve_precision(asked: str, device: str) -> str:
    """Turn `auto` into bf16-mixed where the device computes bfloat16 natively, else 32-true.

    Args:
        asked: `auto` or one of Fabric's names.
        device: `cpu`, `cuda` or another accelerator.

    Raises:
        RunError: 16-mixed on a CPU.
    """
    if asked == "16-mixed" and device == "cpu":
        raise RunError("precision 16-mixed needs a GPU; on a CPU use bf16-mixed or 32-true")
    if asked != "auto":
        return asked
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    native = device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16-mixed" if native else "32-true"


def precision_to_predict(trained: str, device: str) -> str:
    """Return the precision to use a detector in: that of its training, but float32 where a CPU has no 16-mixed.

    Args:
        trained: `auto` or one of Fabric's names.
        device: `cpu`, `cuda` or another accelerator.
    """
    return "32-true" if (trained, device) == ("16-mixed", "cpu") else resolve_precision(trained, device)


def memory_format(device: torch.device) -> torch.memory_format:
    """Return channels_last, which convolutions are fastest in, but contiguous on MPS.

    There torch before 2.14 makes wrong gradients of batch norm of it: github.com/pytorch/pytorch/issues/175189.
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last
