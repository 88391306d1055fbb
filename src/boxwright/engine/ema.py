"""The exponential moving average of a detector's weights."""

import copy

import torch
from torch import Tensor, nn

__all__ = ["ModelEMA"]


class ModelEMA:
    """A copy of a detector that follows its weights slowly, for evaluation and for the checkpoint.

    After step t the average moves by `1 - min(decay, (1 + t) / (10 + t))`, so that the first steps are not tied to the
    initial weights. Floating-point buffers (batch-norm statistics) are averaged too; counters are copied.

    Args:
        detector: the module to follow.
        decay: share of the old average that a step keeps, once warm.
    """

    def __init__(self, detector: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.detector = copy.deepcopy(detector).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, detector: nn.Module) -> None:
        """Move the average towards the detector's weights."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for average, value in zip(self.detector.state_dict().values(), detector.state_dict().values(), strict=True):
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, weight)
