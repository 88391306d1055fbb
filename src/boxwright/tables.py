"""Tables that are made once, not at every step."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["kept"]

P = ParamSpec("P")
R = TypeVar("R")


def kept(make: Callable[P, R]) -> Callable[P, R]:
    """Keep what a function makes, unless it is traced or in a fake mode: such tensors mean nothing afterwards."""
    cached = lru_cache(maxsize=8)(make)

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        traced = torch.compiler.is_compiling() or type(torch.empty(0, device="cpu")) is not Tensor
        return make(*args, **kwargs) if traced else cached(*args, **kwargs)  # type: ignore[arg-type]

    return call
