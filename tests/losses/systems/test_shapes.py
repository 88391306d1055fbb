"""Whole losses name what does not fit: the argument, its shape or dtype, and what it should have been."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from boxwright.losses import VarifocalLoss
from boxwright.losses.systems import (
    StageOutput,
    darknet_yolo_loss,
    faster_rcnn_loss,
    gfl,
    gfl_loss,
    longcw,
    longcw_loss,
    multibox,
    multibox_loss,
    network_cost,
    region_loss,
    set_prediction,
    set_prediction_loss,
    tood,
    tood_loss,
    tood_warmup_loss,
    yolov3,
    yolov3_layer_loss,
    yolov3_loss,
)

LOGITS, LABELS, BOXES = torch.rand(2, 6, 4), torch.randint(-1, 4, (2, 6)), torch.rand(2, 6, 4).cumsum(-1)
PREDICTED = BOXES * 1.1
ANCHORS = torch.tensor([[1.0, 1.5], [3.0, 2.0]])


def stages(**arguments: Any) -> object:
    usual = {"logits": LOGITS, "labels": LABELS, "deltas": PREDICTED, "delta_targets": BOXES}
    stage = StageOutput(**{**usual, "inside_weight": BOXES, "outside_weight": BOXES, **arguments})
    return faster_rcnn_loss(stage, stage)


HEADS: dict[str, tuple[Callable[..., object], dict[str, Any]]] = {
    "gfl": (
        gfl_loss,
        {"scores": LOGITS, "distributions": torch.rand(2, 6, 4, 9), "labels": LABELS, "boxes": BOXES}
        | {"centers": torch.rand(6, 2), "strides": torch.ones(6)},
    ),
    "tood": (
        tood_loss,
        {
            "probabilities": LOGITS,
            "predicted": PREDICTED,
            "labels": LABELS,
            "boxes": BOXES,
            "metrics": torch.rand(2, 6),
        },
    ),
    "tood, warm-up": (
        tood_warmup_loss,
        {
            "probabilities": LOGITS,
            "predicted": PREDICTED,
            "labels": LABELS,
            "boxes": BOXES,
            "centers": torch.rand(6, 2),
        },
    ),
    "rt-detr": (
        lambda **arguments: set_prediction_loss(**arguments, classification=VarifocalLoss()),
        {"logits": LOGITS, "predicted": PREDICTED, "labels": LABELS, "boxes": BOXES},
    ),
    "ssd": (multibox_loss, {"deltas": PREDICTED, "logits": LOGITS, "delta_targets": BOXES, "labels": LABELS}),
    "faster r-cnn": (stages, {"labels": LABELS, "delta_targets": BOXES, "inside_weight": BOXES}),
}


# by name, before anything else could complain of another argument
CHECKED = {"boxes", "deltas", "predicted", "metrics", "distributions", "centers", "strides"}


@pytest.mark.parametrize(
    ("system", "argument"), [(system, argument) for system, (_, usual) in HEADS.items() for argument in usual]
)
def test_one_prior_too_few_is_named(system: str, argument: str) -> None:
    loss, usual = HEADS[system]
    assert loss(**usual)
    cut = usual[argument].narrow(0 if argument in {"centers", "strides"} else 1, 0, 5)
    name = argument if argument in CHECKED else ""
    with pytest.raises((ValueError, TypeError), match=rf"{name}.*\((2, )?5[,)]"):
        loss(**usual | {argument: cut})


@pytest.mark.parametrize("system", HEADS)
@pytest.mark.parametrize("dimension", [0, 1], ids=["no image", "no prior"])
def test_nothing_costs_nothing(system: str, dimension: int) -> None:
    loss, usual = HEADS[system]
    whole = usual if system != "faster r-cnn" else dict.fromkeys(StageOutput._fields, BOXES) | {"labels": LABELS}
    nothing = {name: part.narrow(dimension, 0, 0) for name, part in whole.items() if len(part) == 2}
    nothing |= {name: part[:0] if dimension else part for name, part in whole.items() if len(part) != 2}
    assert not any(loss(**nothing).values())


@pytest.mark.parametrize("system", ["gfl", "tood", "tood, warm-up", "rt-detr", "ssd"])
def test_background_may_have_any_box(system: str) -> None:
    loss, usual = HEADS[system]
    boxes, first = ("delta_targets", 1) if system == "ssd" else ("boxes", 0)
    unknown = torch.where((first <= LABELS).unsqueeze(-1), BOXES, torch.nan)
    assert loss(**usual | {boxes: unknown}) == loss(**usual)


@pytest.mark.parametrize("system", ["gfl", "tood", "tood, warm-up", "rt-detr"])
def test_boxes_without_area_stay_finite(system: str) -> None:
    """Of the object and of its prediction, and with a prior at the same point."""
    loss, usual = HEADS[system]
    predicted, nearest_bin = torch.zeros(2, 6, 4), torch.where(torch.arange(9) == 0, 1e4, torch.zeros(2, 6, 4, 9))
    name, learned = ("distributions", nearest_bin) if system == "gfl" else ("predicted", predicted)
    points = {"boxes": torch.zeros(2, 6, 4), "centers": torch.zeros(6, 2)}
    given = usual | {name: part for name, part in points.items() if name in usual} | {name: learned.requires_grad_()}
    total = sum(loss(**given).values())
    total.backward()
    assert total.isfinite()
    assert learned.grad.isfinite().all()


@pytest.mark.parametrize("system", ["gfl", "tood, warm-up"])
def test_images_may_differ_in_what_they_usually_share(system: str) -> None:
    loss, usual = HEADS[system]
    apart = {name: usual[name].expand(2, *usual[name].shape) for name in {"centers", "strides"} & set(usual)}
    assert loss(**usual | apart) == loss(**usual)


def test_alignment_gets_no_gradient() -> None:
    loss, usual = HEADS["tood"]
    metrics, boxes = torch.rand(2, 6, requires_grad=True), BOXES.clone().requires_grad_()
    sum(loss(**usual | {"metrics": metrics, "predicted": boxes}).values()).backward()
    assert metrics.grad is None
    assert boxes.grad is not None


OBJECTS = {
    "output": torch.randn(2, 16, 5, 6),
    "boxes": torch.rand(2, 4, 4) * 0.6 + 0.2,
    "labels": torch.randint(3, (2, 4)),
    "valid": torch.tensor([[True, True, True, False]] * 2),
}
GRIDS: dict[str, Callable[..., object]] = {
    "region": lambda **arguments: region_loss(**arguments, anchors=ANCHORS, seen=0),
    "longcw": lambda **arguments: longcw_loss(**arguments, anchors=ANCHORS, net_size=(160, 192)),
    "yolo": lambda **arguments: darknet_yolo_loss(**arguments, anchors=ANCHORS * 32, mask=(0, 1), net_size=(160, 192)),
    "yolov3, 2018": lambda **arguments: yolov3_layer_loss(**arguments, anchors=ANCHORS),
    "yolov3": lambda output, **arguments: yolov3_loss([output], **arguments, anchors=[ANCHORS]),
}
WRONG = {
    "an object less": ("boxes", OBJECTS["boxes"][:, :3], r"labels must have shape \(2, 3\), got \(2, 4\)"),
    "an image more": ("boxes", torch.rand(3, 4, 4), r"boxes must have shape \(2, G, 4\), got \(3, 4, 4\)"),
    "one image": ("boxes", torch.rand(4, 4), r"boxes must have shape \(2, G, 4\), got \(4, 4\)"),
    "a label less": ("labels", OBJECTS["labels"][:, :3], r"labels must have shape \(2, 4\), got \(2, 3\)"),
    "no class": ("labels", torch.full((2, 4), 3), r"labels must be 0 to 2 for inputs of 3 classes, got 3"),
    "below classes": ("labels", torch.full((2, 4), -1), r"labels must be 0 to 2 for inputs of 3 classes, got -1"),
    "labels of floats": ("labels", torch.zeros(2, 4), r"labels must be integers, got torch.float32 of shape \(2, 4\)"),
    "a mask less": ("valid", OBJECTS["valid"][:, :3], r"valid must have shape \(2, 4\), got \(2, 3\)"),
    "a mask of numbers": ("valid", torch.ones(2, 4), r"valid must be bool, got torch.float32 of shape \(2, 4\)"),
}


@pytest.mark.parametrize("loss", GRIDS)
@pytest.mark.parametrize("fault", WRONG)
def test_objects_that_do_not_fit_the_grid_are_named(loss: str, fault: str) -> None:
    argument, value, named = WRONG[fault]
    with pytest.raises((ValueError, TypeError), match=named):
        GRIDS[loss](**OBJECTS | {argument: value})


@pytest.mark.parametrize("loss", GRIDS)
def test_padding_may_have_any_label(loss: str) -> None:
    labels = torch.where(OBJECTS["valid"], OBJECTS["labels"], -1)
    assert GRIDS[loss](**OBJECTS | {"labels": labels}) == GRIDS[loss](**OBJECTS)


@pytest.mark.parametrize("system", ["ssd", "faster r-cnn"])
def test_columns_that_are_not_there_are_named(system: str) -> None:
    loss, usual = HEADS[system]
    assert loss(**usual | {"labels": LABELS.int()}) == loss(**usual)
    with pytest.raises(ValueError, match="0 to 3 for inputs of 4 classes, got 9"):
        loss(**usual | {"labels": torch.full((2, 6), 9)})


def test_one_set_of_anchors_for_each_scale() -> None:
    objects = {name: part for name, part in OBJECTS.items() if name != "output"}
    with pytest.raises(ValueError, match="longer"):
        yolov3_loss([OBJECTS["output"]], **objects, anchors=[ANCHORS, ANCHORS])


def test_a_form_that_nobody_knows_is_named() -> None:
    with pytest.raises(ValueError, match=r"form must be one of 'darknet', 'pytorch-yolo2', 'andy-yun', got 'yolo'"):
        region_loss(**OBJECTS, anchors=ANCHORS, seen=0, form="yolo")


NORMALIZED = {
    "gfl": {"classification", "box", "distribution"},
    "tood": {"classification", "box"},
    "tood, warm-up": {"classification", "box"},
    "rt-detr": {"classification", "l1", "giou"},
    "ssd": {"box", "class"},
    "longcw": {"box", "objectness", "class"},
    "yolov3, 2018": {"box", "objectness", "class"},
    "yolov3": {"box", "objectness", "class"},
}


@pytest.mark.parametrize("system", NORMALIZED)
def test_normalizers_are_means_over_the_processes(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, usual = HEADS[system] if system in HEADS else (GRIDS[system], OBJECTS)
    if system == "tood, warm-up":
        usual = usual | {"centers": (BOXES[..., :2] + BOXES[..., 2:]) / 2}  # or no positive might count
    alone = loss(**usual)
    assert all(alone.values())
    for module in (gfl, tood, set_prediction, multibox, longcw, yolov3):
        monkeypatch.setattr(module, "mean_over_processes", lambda value: 2 * value)
    twice = loss(**usual)
    for name, term in alone.items():
        torch.testing.assert_close(twice[name], term / 2 if name in NORMALIZED[system] else term)


def test_the_matches_of_a_set_count_as_one_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, usual = HEADS["rt-detr"]
    plain = loss(**usual, normalizer=1.0)
    torch.testing.assert_close(loss(**usual, normalizer=4.0), {name: term / 4 for name, term in plain.items()})
    monkeypatch.setattr(set_prediction, "mean_over_processes", lambda value: value * 0 + 0.25)
    torch.testing.assert_close(loss(**usual), plain)


def test_a_network_without_any_cost_is_named() -> None:
    with pytest.raises(ValueError, match="none of 2 layers has a cost"):
        network_cost([None, None])
