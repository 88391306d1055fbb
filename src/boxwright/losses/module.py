"""What the modules of all losses share: how they print, and state in the precision that it needs."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from boxwright.devices import widest

__all__ = ["LossModule"]


class LossModule(nn.Module):
    """Module that prints its options, and whose buffers `half()` and `bfloat16()` move, but never narrow.

    Counts of a batch leave the range of float16, and a running mean in bfloat16 stands still. Those in float64 become
    float32 only where the device has no wider type.
    """

    def extra_repr(self) -> str:
        """List the options of the constructor that are kept under their names, or as `hyper`."""
        kept = {**vars(self), **vars(self).get("hyper", {})}
        names = (name for name in inspect.signature(type(self)).parameters if name != "hyper" and name in kept)
        return ", ".join(f"{name}={kept[name]!r}" for name in names)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **options: Any) -> Self:
        super()._apply(partial(_not_narrower, fn), *args, **options)
        return self


def _not_narrower(convert: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.float64:  # a device that lacks it refuses to be asked: ask with what all have
        tensor = tensor.to(widest(convert(tensor.new_empty(0, dtype=torch.float32)).device))
    converted = convert(tensor)
    return converted if converted.dtype.itemsize >= tensor.dtype.itemsize else tensor.to(converted.device)
