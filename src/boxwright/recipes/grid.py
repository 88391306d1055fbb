"""Recipes of YOLOv2 and v3, whose network is one of darknet's."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from boxwright.boxes import fit_anchors
from boxwright.criteria import RegionCriterion, YOLOCriterion
from boxwright.errors import RecipeError, RunError
from boxwright.models import GridDetector, Postprocess
from boxwright.models.darknet import Darknet, load_darknet, parse_cfg
from boxwright.models.darknet.layouts import anchors_of, layout
from boxwright.recipes.parts import Part, PartOf, Positive, Section
from boxwright.recipes.schema import InferenceConfig, Recipe

__all__ = [
    "DarknetConfig",
    "GridRecipe",
    "build_grid_detector",
    "cfg_text",
    "with_anchors",
    "with_detector",
]

Criterion = Annotated[
    Part, PartOf({"region": RegionCriterion, "yolo": YOLOCriterion}, context=("anchors", "masks", "strides"))
]


class DarknetConfig(Section):
    """A published layout, possibly narrower or shallower, or the text of a `.cfg` file."""

    type: Literal["darknet"]
    layout: Literal["yolov2", "yolov2-tiny", "yolov3", "yolov3-spp", "yolov3-tiny"] | None = Field(
        None, description="network of darknet's .cfg of that name"
    )
    width: Positive = Field(1.0, description="factor of the layout's filters")
    depth: Positive = Field(1.0, description="factor of the residual blocks of Darknet-53")
    anchors: Literal["published", "fit"] | tuple[tuple[Positive, Positive], ...] = Field(
        "published", description="width, height in pixels by area; fit: k-means over the training data, then these"
    )
    cfg: str | None = Field(None, description="a whole network in darknet's own words, instead of a layout")
    weights: str | None = Field(None, description="darknet .weights file to start from")
    prior_probability: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="objectness of every cell before training from scratch; darknet's is 0.5"
    )
    multi_scale: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="lowest and highest image side in training, another one every ten batches"
    )
    inference: InferenceConfig = InferenceConfig()

    @model_validator(mode="after")
    def _one_network(self) -> "DarknetConfig":
        if (self.layout is None) == (self.cfg is None):
            raise ValueError("a darknet network is a layout or the text of a cfg: give one of them")
        if self.cfg is not None and (self.anchors, self.width, self.depth) != ("published", 1, 1):
            raise ValueError("anchors, width and depth belong to a layout; a cfg has its own")
        if self.multi_scale and not 32 <= self.multi_scale[0] <= self.multi_scale[1] // 32 * 32:
            raise ValueError(f"multi_scale must be (low, high) with 32 <= low <= high, got {self.multi_scale}")
        return self


class GridRecipe(Recipe):
    """A system on a grid of cells; to the engine a recipe like any other, which reads only the other sections."""

    detector: DarknetConfig  # type: ignore[assignment]
    criterion: Criterion  # type: ignore[assignment]


def with_anchors(recipe: GridRecipe, sizes: Tensor) -> GridRecipe:
    """Return a recipe with anchors that fit objects, as many as its layout has (Redmon and Farhadi 2017).

    Args:
        recipe: of a layout.
        sizes: (N, 2) widths and heights of the objects in pixels of the network's input.

    Raises:
        RecipeError: there are fewer objects than anchors.
    """
    assert recipe.detector.layout is not None  # as DarknetConfig makes sure of one whose anchors are to be fitted
    try:
        anchors = fit_anchors(sizes, len(anchors_of(recipe.detector.layout)))
    except ValueError as error:
        raise RecipeError(f"detector.anchors: fit: {error}; give detector.anchors as numbers") from error
    numbers = tuple((round(width, 2), round(height, 2)) for width, height in anchors.tolist())
    return with_detector(recipe, anchors=numbers)


def with_detector(recipe: GridRecipe, **changes: Any) -> GridRecipe:
    """Return a recipe with some fields of its detector changed."""
    return recipe.model_copy(update={"detector": recipe.detector.model_copy(update=changes)})


def build_grid_detector(
    recipe: GridRecipe, class_names: Sequence[str], *, pretrained: bool | None = None
) -> GridDetector:
    """Build the detector that a recipe describes, with its criterion; arguments as in `build_detector`.

    Raises:
        RecipeError: network, criterion, anchors and classes do not fit together.
        RunError: the weight file cannot be read or does not fit.
    """
    config = recipe.detector
    sections = parse_cfg(cfg_text(recipe, len(class_names)), f"cfg of recipe {recipe.name}")
    header = None
    if config.weights is not None and pretrained is not False:
        network, header = load_darknet(sections, config.weights)
    else:
        network = Darknet(sections)
        network.expect_objects(config.prior_probability)
    layers = sorted(network.detections, key=lambda layer: layer.stride)
    kinds = {layer.kind for layer in layers}
    if kinds != {recipe.criterion.type} or len({layer.anchors for layer in layers}) != 1:
        raise RecipeError(
            f"recipe {recipe.name}: criterion.type is {recipe.criterion.type}, which trains [{recipe.criterion.type}] "
            f"layers that share their anchors; the network has {', '.join(sorted(kinds)) or 'none'}"
        )
    if "region" in kinds and getattr(recipe.criterion, "softmax", None) != layers[0].softmax:
        raise RecipeError(f"recipe {recipe.name}: criterion.softmax must be {layers[0].softmax} as in the network")
    try:
        criterion = recipe.criterion.build(
            anchors=layers[0].anchors,
            masks=[layer.mask for layer in layers],
            strides=[float(layer.stride) for layer in layers],
        )
        detector = GridDetector(
            network,
            criterion,
            Postprocess(**config.inference.model_dump()),
            size=recipe.data.size,
            class_names=class_names,
            multi_scale=config.multi_scale,
        )
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name}: {error}") from error
    if header is not None:
        if header.seen >= 1 << 63:
            raise RunError(f"{config.weights} says that it was trained on {header.seen} images; is it a .weights file?")
        criterion.seen.fill_(header.seen)
    return detector


def cfg_text(recipe: GridRecipe, classes: int) -> str:
    """Return the network of a recipe in darknet's words.

    Raises:
        RecipeError: the layout does not go with the anchors or the image size.
    """
    config, size = recipe.detector, recipe.data.size
    if config.cfg is not None:
        return config.cfg
    assert config.layout is not None  # as DarknetConfig makes sure
    # without data to fit to (a test of the network), as many as are fitted
    anchors = anchors_of(config.layout) if isinstance(config.anchors, str) else config.anchors
    if not isinstance(size, int):
        raise RecipeError(f"recipe {recipe.name}: data.size must be one number for a darknet network, got {size}")
    try:
        return layout(
            config.layout, classes=classes, anchors=anchors, size=size, width=config.width, depth=config.depth
        )
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name}: {error}") from error
