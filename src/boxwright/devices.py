"""What cannot be taken for granted on every device, as Apple's MPS lacks it."""

import torch

__all__ = ["copies_in_background", "widest"]


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no wider one: for sums whose digits matter."""
    return torch.float32 if device.type == "mps" else torch.float64


def copies_in_background(device: torch.device | str) -> bool:
    """Whether the host may go on while its memory is copied to the device; MPS may read it after it was freed.

    The values are then wrong without an error: github.com/pytorch/pytorch/issues/189690.
    """
    return torch.device(device).type != "mps"
