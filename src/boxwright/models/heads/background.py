"""A column for background, for softmax losses."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from boxwright.structures import Predictions

__all__ = ["WithBackground"]


class WithBackground(nn.Module):
    """Any head of sigmoids, its classes and background made one softmax: `extras["background"]` (B, L, 1).

    Args:
        head: built for C + 1 classes, of which the last becomes background.
        num_classes: C.
        prior_probability: what all classes share at the start; the rest is background's. None: all columns alike.
    """

    def __init__(self, head: nn.Module, num_classes: int, prior_probability: float | None = 0.01) -> None:
        super().__init__()
        self.head = head
        # the head starts all its columns alike, which a softmax cannot see
        odds = 1 / num_classes if prior_probability is None else (1 - prior_probability) / prior_probability
        self.bias = nn.Parameter(torch.tensor([math.log(num_classes * odds)]))

    def forward(self, features: list[Tensor]) -> Predictions:
        """Map features, one per level, to predictions for all L priors."""
        predictions: Predictions = self.head(features)
        logits, background = predictions.logits.split([predictions.logits.shape[-1] - 1, 1], dim=-1)
        return replace(predictions, logits=logits, extras=predictions.extras | {"background": background + self.bias})
