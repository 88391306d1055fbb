"""Anchors that fit the training data."""

from collections.abc import Sequence

import torch
from torch import Tensor

from boxwright.data.records import ImageRecord
from boxwright.data.transforms import fitted
from boxwright.recipes import Recipe
from boxwright.recipes.grid import GridRecipe, with_anchors

__all__ = ["settle_anchors"]

_ENOUGH = 20_000  # images, whose objects give the same means as those of more


def settle_anchors(recipe: Recipe, records: Sequence[ImageRecord]) -> Recipe:
    """Return a recipe with numbers where its anchors are to be fitted to the training data, any other as it is.

    Raises:
        RecipeError: there are fewer objects than anchors.
    """
    if not isinstance(recipe, GridRecipe) or recipe.detector.anchors != "fit":
        return recipe
    size, every = recipe.data.size, max(1, len(records) // _ENOUGH)
    sizes = [_object_sizes(records[index], size) for index in range(0, len(records), every)]
    return with_anchors(recipe, torch.cat([torch.zeros(0, 2), *sizes]))


def _object_sizes(record: ImageRecord, size: int | tuple[int, int]) -> Tensor:
    """Widths and heights (n, 2) of an image's objects at the size that the network sees."""
    height, width = fitted(record.height, record.width, size)
    boxes = record.boxes[~record.crowd]
    return (boxes[:, 2:] - boxes[:, :2]) * torch.tensor([width / record.width, height / record.height])
