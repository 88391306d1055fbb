"""Maps of numbers over the grids of the priors, small enough to travel in a page."""

import base64
from typing import Any, Final

import torch
from torch import Tensor

from boxwright.structures import Level, Predictions, Priors

__all__ = ["grids", "heat_map", "score_maps"]

_STEPS: Final = 255


def grids(priors: Priors) -> list[list[float]]:
    """Describe the grid of every level: height, width, stride, offset of the cells' centres."""
    return [[level.height, level.width, level.stride, level.offset] for level in priors.levels]


def score_maps(predictions: Predictions, priors: Priors, labels: Tensor) -> dict[str, dict[str, Any]]:
    """Map the scores of one image, as `heat_map` does.

    Args:
        predictions: of one image.
        priors: L.
        labels: the classes that get a map of their own.

    Returns:
        "any", the highest score of all classes, and one map for each label; the score 1 is the brightest.
    """
    scores = predictions.scores()[0]  # (L, C)
    maps = {"any": heat_map(scores.amax(-1), priors, most=1.0)}
    return maps | {str(label): heat_map(scores[:, label], priors, most=1.0) for label in labels.unique().tolist()}


def heat_map(values: Tensor, priors: Priors, *, most: float | None = None, total: bool = False) -> dict[str, Any]:
    """Write numbers at L priors as one byte for each cell, level after level and row by row.

    Args:
        values: (L,) at least 0.
        priors: L.
        most: the value of the highest byte; the largest value where None.
        total: of the priors of a cell take the sum, not the largest.

    Returns:
        `most`, and `cells`: base64 of bytes b that mean `most · (b / 255)²`, so that small values keep their digits.
    """
    parts = values.float().split([level.size for level in priors.levels])
    cells = torch.cat([_cells(part, level, total) for part, level in zip(parts, priors.levels, strict=True)])
    most = float(cells.amax()) if most is None else most
    share = (cells / most if most > 0 else cells).clamp(0, 1)
    data = share.sqrt().mul(_STEPS).round().to(torch.uint8).numpy().tobytes()
    return {"most": most, "cells": base64.b64encode(data).decode()}


def _cells(values: Tensor, level: Level, total: bool) -> Tensor:
    """One number for each cell of a level, (height · width,)."""
    grouped = values.view(-1, level.per_cell)
    return grouped.sum(-1) if total else grouped.amax(-1)
