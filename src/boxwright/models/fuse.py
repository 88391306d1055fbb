"""Folding batch norms into the convolutions before them, for inference."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

__all__ = ["fold_batch_norms"]

_Norm: TypeAlias = nn.BatchNorm2d | FrozenBatchNorm2d


@torch.no_grad()
def fold_batch_norms(module: nn.Module, run: Callable[[], object]) -> int:
    """Fold every batch norm that follows a convolution into it, in place, and return how many were folded.

    Which norm follows which convolution is seen in one run: its input is the convolution's output, and both run once.
    So it works with any timm model, whatever its layers are called. The result computes the same up to rounding, and
    only in evaluation. A convolution whose output something else reads as well must not be among them.

    Args:
        module: in evaluation mode.
        run: runs the module once on any input.

    Raises:
        ValueError: the module is in training mode, in which batch norms depend on the batch.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    >>> fold_batch_norms(net, lambda: net(torch.zeros(1, 3, 8, 8)))
    1
    """
    if module.training:
        raise ValueError("batch norms can be folded in evaluation only: call eval() first")
    pairs = _pairs(module, run)
    parents = {child: (parent, name) for parent in module.modules() for name, child in parent.named_children()}
    for norm, conv in pairs.items():
        assert isinstance(norm.running_mean, Tensor)
        assert isinstance(norm.running_var, Tensor)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # timm's norms carry a dropout and an activation
        rest = [part for part in norm.children() if not isinstance(part, nn.Identity)]
        parent, name = parents[norm]
        setattr(parent, name, nn.Sequential(*rest) if rest else nn.Identity())
    return len(pairs)


def _pairs(module: nn.Module, run: Callable[[], object]) -> dict[_Norm, nn.Conv2d]:
    """Map each batch norm to the convolution whose output it reads, where each of the two runs once."""
    outputs: list[tuple[Tensor, nn.Conv2d]] = []  # kept, so that no two of them share an address
    pairs: dict[_Norm, nn.Conv2d] = {}
    runs: dict[nn.Module, int] = {}

    def see(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        runs[layer] = runs.get(layer, 0) + 1
        if isinstance(layer, nn.Conv2d):
            outputs.append((output, layer))
        elif isinstance(layer, _Norm):
            pairs.update((layer, conv) for tensor, conv in outputs if tensor is inputs[0])

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | _Norm)]
    hooks = [layer.register_forward_hook(see) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {norm: conv for norm, conv in pairs.items() if runs[norm] == runs[conv] == 1}
