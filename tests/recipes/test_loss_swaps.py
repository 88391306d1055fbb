"""`retinanet` trains with any classification and any box loss by `--set`; what cannot work is refused with a reason."""

import pytest
import torch

from boxwright.data.synth import SyntheticScenes
from boxwright.errors import RecipeError
from boxwright.recipes import build_detector
from boxwright.recipes.schema import CriterionConfig
from tiny_training import tiny_loader, tiny_recipe

CLASSES = SyntheticScenes.names
# a loss of the long tail knows its classes; those of a softmax need a column for background, which the head has not
EXTRA = {
    "equalized-v2": [f"criterion.classification.num_classes={len(CLASSES)}"],
    "gaussian": ["detector.head.variance=true"],
}
SOFTMAX = ("softmax-cross-entropy", "softmax-focal", "seesaw")


def names_of(field: str) -> list[str]:
    """Every `type` that the recipe's field may take."""
    return sorted(CriterionConfig.model_json_schema()["properties"][field]["discriminator"]["mapping"])


def one_step(*overrides: str) -> dict[str, torch.Tensor]:
    """Losses of one batch of scenes; their gradient reaches every parameter and is finite."""
    recipe = tiny_recipe(*overrides)
    detector = build_detector(recipe, CLASSES, class_counts=torch.arange(1, len(CLASSES) + 1)).train()
    batch = next(iter(tiny_loader(recipe, images=4)))
    losses = detector(batch.images, batch.targets)
    sum(losses.values()).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(names_of("classification")) - set(SOFTMAX)))
def test_retinanet_takes_a_step_with_any_classification_loss(name: str) -> None:
    losses = one_step(f"criterion.classification.type={name}", *EXTRA.get(name, []))
    assert losses["classification"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", names_of("box"))
def test_retinanet_takes_a_step_with_any_box_loss(name: str) -> None:
    losses = one_step(f"criterion.box.type={name}", *EXTRA.get(name, []))
    assert losses["box"].isfinite()


@pytest.mark.parametrize("name", SOFTMAX)
def test_a_softmax_loss_is_refused_for_want_of_a_background_column(name: str) -> None:
    classes = [f"criterion.classification.num_classes={len(CLASSES)}"] if name == "seesaw" else []
    with pytest.raises(RecipeError, match=f"{name} needs a column for background"):
        one_step(f"criterion.classification.type={name}", *classes)


def test_a_gaussian_loss_is_refused_without_variances() -> None:
    with pytest.raises(RecipeError, match="needs a head that predicts variances"):
        one_step("criterion.box.type=gaussian")
