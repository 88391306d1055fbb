"""What every system of heads on a pyramid is built from."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from boxwright.errors import RecipeError
from boxwright.models import Backbone
from boxwright.models.heads import WithBackground
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
    field: str,
    part: Any,
    in_channels: Sequence[int],
    num_classes: int,
    per_cell: Sequence[int],
    *,
    softmax: bool = False,
) -> nn.Module:
    """Build a dense head.

    Args:
        field: of the recipe, for errors.
        part: the recipe's head.
        in_channels: channels of each level.
        num_classes: C.
        per_cell: how many priors a cell of each level has.
        softmax: whether classes and background are one softmax, for which the head gets a column more.

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
    columns = num_classes + softmax
    head: nn.Module = built(field, part, in_channels=in_channels, num_classes=columns, priors_per_cell=counts)
    return WithBackground(head, num_classes, part.prior_probability) if softmax else head
