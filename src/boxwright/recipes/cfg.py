"""A darknet `.cfg` as a recipe: its network as it stands, its [net] hyper-parameters in boxwright's words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from boxwright.models.darknet import CfgSection, read_cfg

__all__ = ["COCO_IMAGES", "recipe_values"]

COCO_IMAGES = 117_264  # that darknet's networks were trained on


def recipe_values(path: Path) -> dict[str, Any]:
    """Return the values of the recipe that a `.cfg` describes.

    darknet counts batches, a recipe epochs: those of COCO's 117,264 images. The network's text travels in the recipe.

    Raises:
        RecipeError: the file cannot be read, or says something that a recipe cannot; names file, section and line.
    """
    net, *layers = read_cfg(path)
    sections = [section for section in layers if section.name in ("region", "yolo")]
    if not sections:
        raise net.error("the network has no [region] or [yolo] layer; it classifies whole images")
    size = net.integer("width", least=1)
    if net.integer("height", least=1) != size or size % 32:
        found = f"width={size}, height={net.text('height', '')}"
        raise net.error(f"a recipe's images are square and a multiple of 32, found {found}")
    if net.integer("channels", 3) != 3:
        raise net.error(f"images have 3 channels here, found {net.text('channels', '')}", "channels")
    batch, parts = net.integer("batch", 1, least=1), net.integer("subdivisions", 1, least=1)
    if batch % parts:
        raise net.error(f"subdivisions must divide batch={batch}, found {parts}", "subdivisions")
    return {
        "name": path.stem,
        "description": f"darknet's {path.name}",
        "detector": {
            "type": "darknet",
            "cfg": path.read_text(encoding="utf-8-sig"),
            "multi_scale": _multi_scale(sections),
            "inference": {"score_threshold": 0.005, "iou_threshold": 0.45},
        },
        "criterion": _criterion(sections),
        "data": {"size": size, "batch_size": batch, "augment": _augment(net, sections)},
        "optimizer": _optimizer(net),
        "schedule": _schedule(net, batch / COCO_IMAGES),
        "train": {"accumulate": parts},
    }


def _criterion(sections: Sequence[CfgSection]) -> dict[str, Any]:
    """Settings of the loss, which all layers must share."""
    criteria = [_criterion_of(section) for section in sections]
    for section, criterion in zip(sections, criteria, strict=True):
        if criterion != criteria[0]:
            raise section.error(f"all layers must share their loss, found {criterion} after {criteria[0]}")
    return criteria[0]


def _criterion_of(section: CfgSection) -> dict[str, Any]:
    if section.name == "yolo":
        thresholds = {"ignore_thresh": 0.5, "truth_thresh": 1.0}
        return {"type": "yolo", **{name: section.number(name, default) for name, default in thresholds.items()}}
    names = ("object_scale", "noobject_scale", "class_scale", "coord_scale")
    scales = {name: section.number(name, 1) for name in names}
    flags = {name: bool(section.integer(name, 0)) for name in ("softmax", "rescore", "bias_match")}
    return {"type": "region", "thresh": section.number("thresh", 0.5), **scales, **flags}


def _multi_scale(sections: Sequence[CfgSection]) -> tuple[int, int] | None:
    """Sides of darknet's random=1: ten to nineteen cells of 32 pixels."""
    return (320, 608) if any(section.integer("random", 0) for section in sections) else None


def _augment(net: CfgSection, sections: Sequence[CfgSection]) -> dict[str, Any]:
    jitter = sections[0].number("jitter", 0.2, least=0, most=0.9)
    colour = max(net.number("saturation", 1), net.number("exposure", 1)) > 1 or net.number("hue", 0) > 0
    return {
        "horizontal_flip": 0.5,
        "scale_jitter": (1 - jitter, 1 / (1 - jitter)) if jitter else None,
        "photometric": 1.0 if colour else 0.0,
    }


def _optimizer(net: CfgSection) -> dict[str, Any]:
    """SGD with momentum, or darknet's adam=1, whose decay is AdamW's here."""
    common = {
        "lr": net.number("learning_rate", 0.001, least=1e-12),
        "weight_decay": net.number("decay", 0.0001, least=0),
    }
    if net.integer("adam", 0):
        betas = (net.number("B1", 0.9, least=0, most=1), net.number("B2", 0.999, least=0, most=1))
        return {"type": "adamw", "betas": betas, **common}
    return {"type": "sgd", "momentum": net.number("momentum", 0.9, least=0, most=1), **common}


def _schedule(net: CfgSection, epochs_per_batch: float) -> dict[str, Any]:
    """Warm-up in steps; steps and end in epochs."""
    epochs = max(1, round(net.integer("max_batches", 500_200, least=1, most=1 << 40) * epochs_per_batch))
    schedule = {"type": "step", "epochs": epochs, "warmup_steps": net.integer("burn_in", 0), "warmup_start": 0.0}
    policy = net.text("policy", "constant")
    if policy == "constant":
        return schedule
    if policy != "steps":
        raise net.error(f"policy must be steps or constant, found {policy!r}", "policy")
    scales = net.numbers("scales")
    if len({*scales}) != 1 or scales[0] <= 0:
        raise net.error(f"scales must all be the same and above 0, found {net.text('scales', '')}", "scales")
    steps = net.integers("steps")
    if len(steps) != len(scales):
        raise net.error(f"{len(steps)} steps need as many scales, found {len(scales)}", "scales")
    milestones = sorted({round(step * epochs_per_batch) for step in steps})
    return schedule | {"milestones": [m for m in milestones if 0 < m < epochs], "gamma": scales[0]}
