import pytest
import torch

from boxwright.recipes import load_recipe
from overfitting import overfit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "least"),
    [
        ([], 0.7),
        (["detector.regions.class_agnostic=true", "criterion.rpn.classification.type=softmax-cross-entropy"], 0.7),
        (["detector.backbone.levels=[3]", "detector.neck.type=bare", "detector.priors.scales_per_octave=3"], 0.5),
    ],
    ids=["pyramid", "class-agnostic, softmax", "one level"],
)
def test_both_stages_together_learn_what_they_see(overrides, least):
    torch.manual_seed(0)
    found, said = overfit(load_recipe("faster-rcnn-tiny", ["data.size=96", *overrides]))
    assert found > least
    assert said <= 1.3
