"""Torch with other defaults than its own, as somebody else's code may have set them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def other_defaults(device: str = "meta") -> Iterator[None]:
    """New tensors are float64, and on a device where nothing can be computed, unless they ask for something else."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
