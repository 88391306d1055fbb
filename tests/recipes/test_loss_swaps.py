"""`retinanet` trains with every loss by `--set`; what cannot work is refused with a reason."""

import pytest
import torch

from boxwright.data.synth import SyntheticScenes
from boxwright.errors import RecipeError
from boxwright.recipes import build_detector
from boxwright.recipes.schema import CriterionConfig
from boxwright.structures import Detections
from tiny_training import tiny_loader, tiny_recipe

CLASSES = SyntheticScenes.names
SEESAW = f"criterion.classification.num_classes={len(CLASSES)}"
# what a loss needs besides its name
EXTRA = {
    "equalized-v2": [SEESAW],
    "seesaw": [SEESAW],
    "gaussian": ["detector.head.variance=true"],
    "distribution-focal": ["detector.head.reg_max=16", "detector.coder.type=integral"],
    "fine-grained-localization": ["detector.head.reg_max=32", "detector.coder.type=fine-grained"],
}


def choices(field: str) -> list[str]:
    """Every `type` that the recipe's field may take."""
    schema = CriterionConfig.model_json_schema()["properties"][field]
    schema = next((one for one in schema.get("anyOf", ()) if "discriminator" in one), schema)
    return sorted(schema["discriminator"]["mapping"])


def trained(*overrides: str, steps: int = 3) -> tuple[list[dict[str, torch.Tensor]], Detections]:
    """Losses of some steps on one batch of scenes, and what is detected afterwards; every parameter moves, finitely."""
    recipe = tiny_recipe(*overrides, "detector.inference.score_threshold=0")
    torch.manual_seed(0)
    detector = build_detector(recipe, CLASSES, class_counts=torch.arange(1, len(CLASSES) + 1)).train()
    batch = next(iter(tiny_loader(recipe, images=4)))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    history = []
    for _ in range(steps):
        losses = detector(batch.images, batch.targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        for name, parameter in detector.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        optimizer.step()
        history.append({name: loss.detach() for name, loss in losses.items()})
    return history, detector.eval()(batch.images)


def assert_trains(field: str, *overrides: str) -> None:
    history, detections = trained(*overrides)
    assert all(loss.isfinite() for losses in history for loss in losses.values())
    assert history[0][field] != 0
    assert detections.boxes.isfinite().all()
    assert (detections.scores <= 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", choices("classification"))
def test_retinanet_trains_with_any_classification_loss(name: str) -> None:
    assert_trains("classification", f"criterion.classification.type={name}", *EXTRA.get(name, []))


@pytest.mark.slow
@pytest.mark.parametrize("name", choices("box"))
def test_retinanet_trains_with_any_box_loss(name: str) -> None:
    assert_trains("box", f"criterion.box.type={name}", *EXTRA.get(name, []))


@pytest.mark.slow
@pytest.mark.parametrize("name", choices("distribution"))
def test_retinanet_trains_with_any_loss_of_distributions(name: str) -> None:
    assert_trains("distribution", f"criterion.distribution.type={name}", *EXTRA[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["type=softmax-cross-entropy", "class_weight=effective_number(0.999)", "label_smoothing=0.1"],
        ["type=softmax-focal", "class_weight=balanced", "gamma=0.5"],
        ["type=sigmoid-focal", "class_weight=effective_number(0.99)", "alpha=null"],
        ["type=sigmoid-cross-entropy", "label_smoothing=0.1"],
        ["type=varifocal", "detach=true"],
        ["type=ghmc", "momentum=0.75"],
        ["type=federated", "classes=2"],
    ],
)
def test_retinanet_trains_with_variants_of_classification_losses(options: list[str]) -> None:
    assert_trains("classification", *(f"criterion.classification.{option}" for option in options))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [["type=iou", "form=square"], ["type=iou", "form=log"], ["type=ciou", "version=classic"],
     ["type=ciou", "version=torchvision"], ["type=giou", "version=torchvision"], ["type=sigma-smooth-l1", "sigma=3"],
     ["type=ghmr", "momentum=0.7"]],
)  # fmt: skip
def test_retinanet_trains_with_variants_of_box_losses(options: list[str]) -> None:
    assert_trains("box", *(f"criterion.box.{option}" for option in options))


def test_a_softmax_starts_with_background_and_learns() -> None:
    history, detections = trained("criterion.classification.type=softmax-cross-entropy", steps=12)
    first, last = (losses["classification"] for losses in (history[0], history[-1]))
    assert last < 0.8 * first
    assert detections.boxes.shape[-1] == 4
    fresh = build_detector(tiny_recipe("criterion.classification.type=softmax-focal"), CLASSES).eval()
    predictions, _ = fresh.predict(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert predictions.logits.shape[-1] == len(CLASSES)
    torch.testing.assert_close(predictions.scores().sum(-1).mean(), torch.tensor(0.01), rtol=0.2, atol=0)


def test_a_gaussian_loss_is_refused_without_variances() -> None:
    with pytest.raises(RecipeError, match="needs a head that predicts variances"):
        trained("criterion.box.type=gaussian")
