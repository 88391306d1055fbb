"""One training step of every recipe."""

import pytest
import torch

from boxwright.errors import RecipeError
from boxwright.recipes import build_detector, load_recipe, recipe_names
from boxwright.structures import Detections, Targets

NAMES = [
    name if name.endswith("-tiny") else pytest.param(name, marks=pytest.mark.slow) for name in recipe_names()
]  # fmt: skip

# its anchors are larger than these images, which they must lie in
FITTING = {"faster-rcnn-vgg16": ["criterion.rpn.assigner.border=null"]}


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_is_finite_and_every_parameter_learns(name):
    torch.manual_seed(0)
    counts = torch.tensor([3, 40])
    recipe = load_recipe(name, ["data.size=64", *FITTING.get(name, [])])
    detector = build_detector(recipe, ["a", "b"], class_counts=counts, pretrained=False)
    targets = Targets.from_list(
        [
            {"boxes": torch.tensor([[10.0, 8, 60, 40], [4, 4, 20, 20]]), "labels": torch.tensor([0, 1])},
            {"boxes": torch.tensor([[10.0, 30, 60, 60]]), "labels": torch.tensor([1])},
        ]
    )
    images = torch.rand(2, 3, 64, 64)
    for epoch in (0, 1000):
        for module in detector.modules():
            if hasattr(module, "set_epoch"):
                module.set_epoch(epoch)
        losses = detector.train()(images, targets)
        detector.zero_grad()
        sum(losses.values()).backward()
        assert all(loss.isfinite() and loss > 0 for loss in losses.values()), losses
        still = [
            key
            for key, parameter in detector.named_parameters()
            if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all())
        ]
        assert still == []
    with torch.no_grad():
        assert isinstance(detector.eval()(images), Detections)


def test_class_counts_weigh_the_classes():
    recipe = load_recipe("retinanet-cb-tiny")
    counts = torch.tensor([10, 1000])
    weight = build_detector(recipe, ["a", "b"], class_counts=counts).criterion.classification.class_weight
    assert weight[0] > 10 * weight[1]
    assert build_detector(recipe, ["a", "b"]).criterion.classification.class_weight is None


@pytest.mark.parametrize(
    "changes",
    [
        ["type=seesaw", "num_classes=3"],
        ["type=equalized-v2", "num_classes=3"],
        ["type=federated", "frequency=[1,2,3]"],
        ["class_weight=[1,2,3]"],
    ],
)
@pytest.mark.parametrize(("system", "stage"), [("retinanet-tiny", ""), ("faster-rcnn-tiny", "roi.")])
def test_a_loss_made_for_other_classes_than_the_data_have_is_refused(changes, system, stage):
    field = f"criterion.{stage}classification"
    recipe = load_recipe(system, [f"{field}.{change}" for change in changes])
    with pytest.raises(RecipeError, match=f"{field} is made for 3 classes, but the data have 2"):
        build_detector(recipe, ["a", "b"], class_counts=torch.tensor([10, 1000]), pretrained=False)
