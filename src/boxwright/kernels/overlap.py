"""Losses of aligned box pairs, chunk by chunk: time and memory of the traffic that is needed, no more.

A loss of this family sees two boxes only through a few extents per axis and through areas and squared lengths, one
number per pair (`PairGeometry`). Its formula is written once, on these, and autograd differentiates nothing else;
corners turn into extents and extents into areas, and gradients all the way back, in closed form. Working in
chunks that stay in the processor's cache avoids both the memory and the page faults of a dozen temporaries of the
size of the input; the gradient is computed together with the loss and only scaled in the backward pass.

`pair_loss_reference` is the same without chunks and closed forms: what a compiler and `torch.func` get to see, and what
is differentiated again where a gradient is asked for with `create_graph`.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from boxwright.kernels.pair_geometry import QUANTITIES, PairGeometry
from boxwright.kernels.tracing import is_traced

__all__ = ["PairFormula", "PairGeometry", "floor", "pair_loss", "pair_loss_reference"]

# Boxes per chunk and thread: a pair of coordinate planes takes 512 KiB in float32. Of half as many, starting operations
# and waiting for all threads takes as long as the arithmetic.
CHUNK: Final = 65536
# what a device without such caches takes at once
MUCH: Final = 2**20

PairFormula = Callable[[PairGeometry], Tensor]


def pair_loss(formula: PairFormula, inputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of every pair of boxes.

    Args:
        formula: from the geometry of n pairs to (n,) losses, with differentiable elementwise operations only.
        inputs: (…, 4) xyxy, float32 or float64.
        targets: (…, 4) xyxy of the same shape and dtype.

    Returns:
        (…), differentiable in both.
    """
    if is_traced():
        return pair_loss_reference(formula, inputs, targets)
    loss: Tensor = _ChunkedPairLoss.apply(inputs.reshape(-1, 4), targets.reshape(-1, 4), formula)
    return loss.view(inputs.shape[:-1])


def pair_loss_reference(formula: PairFormula, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return what `pair_loss` does, in plain differentiable PyTorch."""
    geometry = PairGeometry(inputs.reshape(-1, 4).T, targets.reshape(-1, 4).T)
    return _of_pairs(formula, geometry).view(inputs.shape[:-1])


def _of_pairs(formula: PairFormula, pair: PairGeometry) -> Tensor:
    loss = formula(pair)
    if loss.shape != pair.low.shape[1:]:
        raise ValueError(f"a formula gives one number per pair, {tuple(pair.low.shape[1:])}, got {tuple(loss.shape)}")
    return loss


def floor(value: Tensor, least: float) -> Tensor:
    """Raise everything below `least` to it, without gradient there (several times faster backward than `clamp`)."""
    return torch.nn.functional.threshold(value, least, least)


class _ChunkedPairLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, targets: Tensor, formula: PairFormula) -> Tensor:
        ctx.save_for_backward(inputs, targets)
        ctx.formula = formula
        loss = inputs.new_empty(len(inputs))
        ctx.gradients = _fill(formula, inputs, targets, ctx.needs_input_grad[:2], loss, None)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        inputs, targets = ctx.saved_tensors
        if torch.is_grad_enabled():
            loss = pair_loss_reference(ctx.formula, inputs, targets)
            asked = [boxes for boxes, need in zip((inputs, targets), ctx.needs_input_grad[:2], strict=True) if need]
            found = iter(torch.autograd.grad(loss, asked, upstream, create_graph=True))
            slopes = [next(found) if need else None for need in ctx.needs_input_grad[:2]]
            return slopes[0], slopes[1], None
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            # a second pass through a retained graph: the first has scaled its gradients in place
            again = _fill(ctx.formula, inputs, targets, ctx.needs_input_grad[:2], None, upstream)
            return again[0], again[1], None
        # a sum or mean hands the same number to every pair, and a sum mostly 1
        factor = (upstream[:1] if upstream.stride() == (0,) else upstream).unsqueeze(-1)
        if factor.numel() == 1 and factor.is_cpu and factor.item() == 1:
            return *gradients, None
        scaled = [None if gradient is None else gradient.mul_(factor) for gradient in gradients]
        return scaled[0], scaled[1], None


def _fill(
    formula: PairFormula,
    inputs: Tensor,
    targets: Tensor,
    needed: tuple[bool, bool],
    loss: Tensor | None,
    upstream: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Write the loss where one is given; return the gradients that are needed, times `upstream` (1 where None)."""
    gradients = tuple(
        torch.empty_like(boxes) if need else None for boxes, need in zip((inputs, targets), needed, strict=True)
    )
    leaves = _leaves(*needed)
    step = CHUNK * torch.get_num_threads() if inputs.is_cpu else MUCH
    for start in range(0, len(inputs), step):
        # in a function of its own, so that nothing of a chunk outlives it
        _fill_chunk(slice(start, start + step), formula, inputs, targets, leaves, gradients, loss, upstream)
    return gradients[0], gradients[1]


def _fill_chunk(
    part: slice,
    formula: PairFormula,
    inputs: Tensor,
    targets: Tensor,
    leaves: frozenset[str],
    gradients: tuple[Tensor | None, ...],
    loss: Tensor | None,
    upstream: Tensor | None,
) -> None:
    planes = _planes(inputs[part]), _planes(targets[part])
    slopes = _extent_slopes(part, formula, planes, leaves, loss, upstream)
    if gradients[0] is not None:
        _store(gradients[0][part], _corner_slopes(*planes, slopes, 1))
    if gradients[1] is not None:
        swapped = {name.removeprefix("target_"): slope for name, slope in slopes.items() if name != "size"}
        _store(gradients[1][part], _corner_slopes(planes[1], planes[0], swapped, -1))


def _extent_slopes(
    part: slice,
    formula: PairFormula,
    planes: tuple[Tensor, Tensor],
    leaves: frozenset[str],
    loss: Tensor | None,
    upstream: Tensor | None,
) -> dict[str, Tensor]:
    """Write the loss where one is given; return its gradients by the extents, after which nothing of it is kept."""
    pair = PairGeometry(*planes, leaves=leaves)
    with torch.set_grad_enabled(bool(leaves)):
        value = _of_pairs(formula, pair)
    if loss is not None:
        loss[part] = value.detach()
    if not leaves:
        return {}
    asked = {name: leaf for name, leaf in pair.known.items() if leaf.requires_grad}
    above = torch.ones_like(value) if upstream is None else upstream[part]
    found = torch.autograd.grad(value, list(asked.values()), above, allow_unused=True)
    slopes = {name: slope for name, slope in zip(asked, found, strict=True) if slope is not None}
    _to_extents(slopes, pair)
    return slopes


def _leaves(inputs: bool, targets: bool) -> frozenset[str]:
    """What the gradients that are needed are taken through."""
    if not (inputs or targets):
        return frozenset()
    extents = ["inner", "hull", "offset", "difference", *["size"] * inputs, *["target_size"] * targets]
    return frozenset(extents + [name for name, (extent, _) in QUANTITIES.items() if extent in extents])


def _to_extents(slopes: dict[str, Tensor], pair: PairGeometry) -> None:
    """Hand the gradients (n,) of areas and squared lengths on to the extents that they are made of."""
    # autograd may have handed out one tensor under two names: none of them is changed
    for name in ("inner", "intersection"):
        if name in slopes:  # what was raised to 0 does not move
            slopes[name] = slopes[name] * pair.known[name].sign()
    for name, (extent, slope_of) in QUANTITIES.items():
        if name in slopes:
            slope = slope_of(pair.known[extent]).mul_(slopes.pop(name))
            slopes[extent] = slope.add_(slopes[extent]) if extent in slopes else slope


def _corner_slopes(boxes: Tensor, others: Tensor, slopes: dict[str, Tensor], sign: int) -> Tensor:
    """Gradient (4, n) of the corners of `boxes` from the gradients (2, n) of the extents that they form with `others`.

    A corner moves the intersection where it is the inner of the two corners of its side, the hull where it is the
    outer, and half of each where both coincide. The centre moves by half of either, in the direction of `sign`, and so
    does the difference, as a whole.
    """
    # what moves both sides of a box apart
    apart = slopes["size"] if "size" in slopes else torch.zeros_like(boxes[:2])
    for name in ("inner", "hull"):
        if name in slopes:
            apart = torch.add(apart, slopes[name], alpha=0.5)
    corners = torch.empty_like(boxes)
    low, high = corners.split(2)
    if "offset" in slopes:
        along = slopes["offset"] * (0.5 * sign)
        torch.sub(along, apart, out=low)
        torch.add(along, apart, out=high)
    else:
        torch.neg(apart, out=low)
        high.copy_(apart)
    turn = slopes.get("inner")
    if "hull" in slopes:
        turn = slopes["hull"].neg() if turn is None else turn - slopes["hull"]
    if turn is not None:
        side = (boxes - others).sign_()
        corners.view(2, *turn.shape).addcmul_(side.view(2, *turn.shape), turn, value=-0.5)
    if "difference" in slopes:
        corners.add_(slopes["difference"], alpha=sign)
    return corners


def _planes(boxes: Tensor) -> Tensor:
    """Coordinate planes (4, n) of (n, 4); three-dimensional because PyTorch transposes matrices four times slower."""
    return boxes[None].permute(2, 0, 1).contiguous().squeeze(1)


def _store(rows: Tensor, planes: Tensor) -> None:
    """Write planes (4, n) to rows (n, 4); three-dimensional for the same reason."""
    rows[None].copy_(planes[:, None].permute(1, 2, 0))
