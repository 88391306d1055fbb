"""The optimiser of a recipe and its parameter groups."""

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import Parameter
from torch.optim import SGD, AdamW, Optimizer

from boxwright.recipes.training import OptimizerConfig

__all__ = ["build_optimizer", "parameter_groups"]


def parameter_groups(detector: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Split the parameters that learn into at most four groups: backbone or not, decayed or not.

    Norm layers, biases and learned scales are recognised by having at most one dimension. Each group carries
    `initial_lr`, which the schedule multiplies. Frozen parameters belong to no group.

    Args:
        detector: whose parameters to split; its child `backbone` learns with `lr * backbone_lr_scale`.
        config: learning rate, weight decay and the two rules that tell groups apart.
    """
    members: dict[tuple[bool, bool], list[Parameter]] = {}
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            decayed = config.decay_norm_and_bias or parameter.ndim > 1
            members.setdefault((name.startswith("backbone."), decayed), []).append(parameter)
    groups: list[dict[str, Any]] = []
    for (in_backbone, decayed), parameters in sorted(members.items(), key=lambda item: item[0]):
        lr = config.lr * (config.backbone_lr_scale if in_backbone else 1.0)
        decay = config.weight_decay if decayed else 0.0
        groups.append({"params": parameters, "lr": lr, "initial_lr": lr, "weight_decay": decay})
    return groups


def build_optimizer(detector: nn.Module, config: OptimizerConfig, *, fused: bool = True) -> Optimizer:
    """Build SGD or AdamW over the detector's parameter groups.

    Args:
        detector: the module on its final device.
        config: the recipe's section.
        fused: one kernel for all parameters; off for float16 training, whose scaler has to see the gradients first.
    """
    groups = parameter_groups(detector, config)
    if config.type == "adamw":
        return AdamW(groups, betas=config.betas, fused=fused)
    optimizer = SGD(groups, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    if config.momentum:
        # the fused kernel allocates these without filling them: a first step that it skips would leave garbage behind
        for group in groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
