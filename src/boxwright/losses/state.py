"""The state that losses keep, in the precision that it needs whatever the network's is."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

from torch import Tensor, nn

__all__ = ["WideState"]


class WideState(nn.Module):
    """Module whose buffers `half()` and `bfloat16()` move, but never narrow.

    Counts of a batch leave the range of float16, and a running mean in bfloat16 stands still.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **options: Any) -> Self:
        super()._apply(partial(_not_narrower, fn), *args, **options)
        return self


def _not_narrower(convert: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    converted = convert(tensor)
    return converted if converted.dtype.itemsize >= tensor.dtype.itemsize else tensor.to(converted.device)
