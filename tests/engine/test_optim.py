"""Parameter groups as published, and the optimisers against torch's plain ones."""

import copy

import pytest
import torch

from boxwright.engine.optim import build_optimizer, parameter_groups
from boxwright.recipes import build_detector, load_recipe
from boxwright.recipes.training import OptimizerConfig


def rules(detector, groups):
    """(learning rate, decay) by parameter name."""
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_no_decay_on_norm_and_bias_and_a_slower_backbone(detector):
    config = OptimizerConfig(type="adamw", lr=1.0, weight_decay=0.05, decay_norm_and_bias=False, backbone_lr_scale=0.1)
    assert rules(detector, parameter_groups(detector, config)) == {
        "backbone.0.weight": (0.1, 0.05),
        "backbone.0.bias": (0.1, 0.0),
        "backbone.1.weight": (0.1, 0.0),
        "backbone.1.bias": (0.1, 0.0),
        "head.weight": (1.0, 0.05),
        "head.bias": (1.0, 0.0),
    }


def test_decay_everywhere_where_the_recipe_says_so(detector):
    config = OptimizerConfig(type="sgd", lr=1.0, weight_decay=0.05)
    assert {decay for _, decay in rules(detector, parameter_groups(detector, config)).values()} == {0.05}


def test_frozen_stages_are_left_out_of_a_real_detector():
    recipe = load_recipe("retinanet-tiny", ["detector.backbone.frozen_stages=2"])
    detector = build_detector(recipe, ["thing"])
    grouped = rules(detector, parameter_groups(detector, recipe.optimizer))
    learning = {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    frozen = {name for name, parameter in detector.named_parameters() if not parameter.requires_grad}
    assert set(grouped) == learning
    assert frozen
    assert all(name.startswith("backbone.") for name in frozen)
    decayed = {name for name, (_, decay) in grouped.items() if decay > 0}
    assert {dict(detector.named_parameters())[name].ndim for name in decayed} == {4}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("reference", "options"),
    [
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        (torch.optim.SGD, {"momentum": 0.0}),
        (torch.optim.AdamW, {"betas": (0.8, 0.95)}),
    ],
)
def test_steps_equal_those_of_torchs_plain_optimisers(detector, reference, options, fused):
    settings = {"lr": 0.1, "weight_decay": 0.05, **options}
    twin = copy.deepcopy(detector)
    ours = build_optimizer(detector, OptimizerConfig(type=reference.__name__.lower(), **settings), fused=fused)
    defaults = {"momentum": 0.9} if reference is torch.optim.SGD else {}
    theirs = reference(twin.parameters(), foreach=False, **(defaults | settings))
    for _ in range(3):
        for module, optimizer in ((detector, ours), (twin, theirs)):
            for parameter in module.parameters():
                parameter.grad = torch.sin(parameter.detach() + 1)
            optimizer.step()
    for one, other in zip(detector.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)
