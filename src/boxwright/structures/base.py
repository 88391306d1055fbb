"""What every noun can do: move between devices and pin its memory."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from boxwright.devices import copies_in_background


class TensorStruct:
    """Mixin for frozen dataclasses of tensors (and of dictionaries of tensors, and of one another)."""

    __slots__ = ()

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return a copy with `function` applied to every tensor."""
        changes: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]  # only dataclasses mix this in
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changes[field.name] = function(value)
            elif isinstance(value, TensorStruct):
                changes[field.name] = value.map(function)
            elif isinstance(value, dict):
                changes[field.name] = {name: function(tensor) for name, tensor in value.items()}
        return replace(self, **changes)  # type: ignore[type-var]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Copy to a device; `non_blocking` where that is safe."""
        non_blocking = non_blocking and copies_in_background(device)
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Copy to page-locked memory, so that the copy to a GPU can overlap with work."""
        return self.map(Tensor.pin_memory)
