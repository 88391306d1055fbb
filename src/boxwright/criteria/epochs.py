"""What changes over the epochs is told which one begins."""

from typing import Any

from torch import nn

__all__ = ["set_epoch"]


def set_epoch(model: nn.Module, epoch: int) -> None:
    """Call `set_epoch(epoch)` of all parts that have it: modules such as losses, and the assigner of a criterion.

    The trainer does so at the start of every epoch, also after a resume, so that what follows from the epoch alone
    needs no saving. A training loop of your own calls it for a detector or for a criterion.

    Args:
        model: a detector or a criterion.
        epoch: counted from 0.
    """
    for module in model.modules():
        parts: tuple[Any, ...] = (module, vars(module).get("assigner"))  # an assigner that is a module comes by itself
        for part in parts:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
