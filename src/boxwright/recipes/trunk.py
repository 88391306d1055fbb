"""What every system of heads on a pyramid is built from."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from boxwright.errors import RecipeError
from boxwright.models import Backbone
from boxwright.recipes.parts import Part, built
from boxwright.recipes.schema import BackboneConfig

__all__ = ["build_head", "build_trunk"]


def build_trunk(
    backbone: BackboneConfig, neck: Part, priors: Part, *, pretrained: bool | None
) -> tuple[Backbone, Any, Any]:
    """Build backbone, neck and the priors on its levels; `pretrained` as in `build_detector`.

    Raises:
        RecipeError: parts do not fit together.
        RunError: the backbone or its weights cannot be had.
    """
    options = backbone.model_dump()
    if pretrained is False:
        options |= {"pretrained": False, "weights": None}
    body = Backbone(**options)
    levels = built("detector.neck", neck, in_channels=body.channels)
    strides = tuple(2.0 ** (backbone.levels[0] + index) for index in range(len(levels.channels)))
    return body, levels, built("detector.priors", priors, strides=strides)


def build_head(
    field: str, part: Part, in_channels: Sequence[int], num_classes: int, per_cell: Sequence[int]
) -> nn.Module:
    """Build a dense head; `per_cell` says how many priors a cell of each level has.

    Raises:
        RecipeError: the head cannot have another number on every level, or another width.
    """
    counts: Sequence[int] | int = per_cell
    if not getattr(type(part).factory, "per_level", False):
        if len(set(per_cell)) != 1:
            raise RecipeError(
                f"detector.priors: the {part.type} head needs equal anchors per cell on all levels, got {per_cell}"
            )
        counts = per_cell[0]
    head: nn.Module = built(field, part, in_channels=in_channels, num_classes=num_classes, priors_per_cell=counts)
    return head
