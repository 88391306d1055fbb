"""Losses of aligned box pairs, chunk by chunk: time and memory of the traffic that is needed, no more.

A loss of this family sees two boxes only through a few extents per axis (`PairGeometry`). Its formula is written once,
on these; corners turn into extents and gradients of extents into gradients of corners in closed form. Working in
chunks that stay in the processor's cache avoids both the memory and the page faults of a dozen temporaries of the
size of the input; the gradient is computed together with the loss and only scaled in the backward pass.

`pair_loss_reference` is the same without chunks and closed forms, and what a compiler gets to see.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["PairFormula", "PairGeometry", "floor", "pair_loss", "pair_loss_reference"]

# Boxes per chunk and thread: a pair of coordinate planes takes 256 KiB in float32.
CHUNK: Final = 32768
# what a device without such caches takes at once
MUCH: Final = 2**20


class PairGeometry:
    """What a loss sees of n pairs of boxes; each extent is (2, n), x axis and y axis, and computed when asked for.

    Args:
        boxes: (4, n) coordinate planes x1, y1, x2, y2 of the predictions.
        targets: the same of the targets.
        leaves: names of the extents that are leaves of a gradient of their own.
    """

    def __init__(self, boxes: Tensor, targets: Tensor, leaves: frozenset[str] = frozenset()) -> None:
        self.low, self.high = boxes.split(2)
        self.target_low, self.target_high = targets.split(2)
        self.leaves = leaves
        self.extents: dict[str, Tensor] = {}

    @property
    def inner(self) -> Tensor:
        """Extent of the intersection, at least 0."""
        return self._keep("inner", _inner_extent)

    @property
    def hull(self) -> Tensor:
        """Extent of the smallest box around both."""
        return self._keep("hull", _hull_extent)

    @property
    def size(self) -> Tensor:
        """Width and height of the prediction."""
        return self._keep("size", lambda pair: pair.high - pair.low)

    @property
    def target_size(self) -> Tensor:
        """Width and height of the target."""
        return self._keep("target_size", lambda pair: pair.target_high - pair.target_low)

    @property
    def offset(self) -> Tensor:
        """Centre of the prediction minus centre of the target."""
        return self._keep("offset", _center_offset)

    @property
    def difference(self) -> Tensor:
        """Prediction minus target (4, n), coordinate by coordinate."""
        return self._keep(
            "difference", lambda pair: torch.cat([pair.low - pair.target_low, pair.high - pair.target_high])
        )

    def _keep(self, name: str, compute: Callable[["PairGeometry"], Tensor]) -> Tensor:
        if name not in self.extents:
            extent = compute(self)
            self.extents[name] = extent.requires_grad_() if name in self.leaves else extent
        return self.extents[name]


PairFormula = Callable[[PairGeometry], Tensor]


def pair_loss(formula: PairFormula, inputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of every pair of boxes.

    Args:
        formula: from the geometry of n pairs to (n,) losses, with differentiable elementwise operations only.
        inputs: (…, 4) xyxy, float32 or float64.
        targets: (…, 4) xyxy of the same shape and dtype.

    Returns:
        (…), differentiable (once) in both.
    """
    if torch.compiler.is_compiling():
        return pair_loss_reference(formula, inputs, targets)
    loss: Tensor = _ChunkedPairLoss.apply(inputs.reshape(-1, 4), targets.reshape(-1, 4), formula)
    return loss.view(inputs.shape[:-1])


def pair_loss_reference(formula: PairFormula, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return what `pair_loss` does, in plain differentiable PyTorch."""
    geometry = PairGeometry(inputs.reshape(-1, 4).T, targets.reshape(-1, 4).T)
    return formula(geometry).view(inputs.shape[:-1])


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
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            # a second pass through a retained graph: the first has scaled its gradients in place
            inputs, targets = ctx.saved_tensors
            again = _fill(ctx.formula, inputs, targets, ctx.needs_input_grad[:2], None, upstream)
            return again[0], again[1], None
        # a sum or mean hands the same number to every pair
        factor = (upstream[:1] if upstream.stride() == (0,) else upstream).unsqueeze(-1)
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
    sizes = [name for name, need in zip(("size", "target_size"), needed, strict=True) if need]
    leaves = frozenset(["inner", "hull", "offset", "difference", *sizes]) if any(needed) else frozenset()
    step = CHUNK * torch.get_num_threads() if inputs.is_cpu else MUCH
    for part in (slice(start, start + step) for start in range(0, len(inputs), step)):
        planes = _planes(inputs[part]), _planes(targets[part])
        pair = PairGeometry(*planes, leaves=leaves)
        with torch.set_grad_enabled(any(needed)):
            value = formula(pair)
        if loss is not None:
            loss[part] = value.detach()
        if not any(needed):
            continue
        asked = {name: extent for name, extent in pair.extents.items() if extent.requires_grad}
        above = torch.ones_like(value) if upstream is None else upstream[part]
        found = torch.autograd.grad(value, list(asked.values()), above, allow_unused=True)
        slopes = {name: slope for name, slope in zip(asked, found, strict=True) if slope is not None}
        if "inner" in slopes:
            slopes["inner"].mul_(pair.inner.detach().sign())
        if gradients[0] is not None:
            _store(gradients[0][part], _corner_slopes(*planes, slopes, 1))
        if gradients[1] is not None:
            swapped = {name.removeprefix("target_"): slope for name, slope in slopes.items() if name != "size"}
            _store(gradients[1][part], _corner_slopes(planes[1], planes[0], swapped, -1))
    return gradients[0], gradients[1]


def _inner_extent(pair: PairGeometry) -> Tensor:
    return torch.minimum(pair.high, pair.target_high).sub_(torch.maximum(pair.low, pair.target_low)).clamp_(min=0)


def _hull_extent(pair: PairGeometry) -> Tensor:
    return torch.maximum(pair.high, pair.target_high).sub_(torch.minimum(pair.low, pair.target_low))


def _center_offset(pair: PairGeometry) -> Tensor:
    # not the difference of two centres, which loses digits far from the origin
    return (pair.low - pair.target_low).add_(pair.high - pair.target_high).mul_(0.5)


def _corner_slopes(boxes: Tensor, others: Tensor, slopes: dict[str, Tensor], sign: int) -> Tensor:
    """Gradient (4, n) of the corners of `boxes` from the gradients (2, n) of the extents that they form with `others`.

    A corner moves the intersection where it is the inner of the two corners of its side, the hull where it is the
    outer, and half of each where both coincide. The centre moves by half of either, in the direction of `sign`, and so
    does the difference, as a whole.
    """
    inner, hull, size, offset = (slopes.get(name) for name in ("inner", "hull", "size", "offset"))
    corners = torch.zeros_like(boxes) if size is None else torch.cat([size.neg(), size])
    if "difference" in slopes:
        corners.add_(slopes["difference"], alpha=sign)
    low, high = corners.split(2)
    inside = boxes if inner is None and hull is None else (boxes - others).sign_()
    for slope, direction in ((inner, 1), (hull, -1)):
        if slope is not None:
            for corner, side, turn in ((low, inside[:2], -1), (high, inside[2:], 1)):
                corner.add_(slope, alpha=0.5 * turn).addcmul_(side, slope, value=-0.5 * direction)
    if offset is not None:
        low.add_(offset, alpha=0.5 * sign)
        high.add_(offset, alpha=0.5 * sign)
    return corners


def _planes(boxes: Tensor) -> Tensor:
    """Coordinate planes (4, n) of (n, 4); three-dimensional because PyTorch transposes matrices four times slower."""
    return boxes[None].permute(2, 0, 1).contiguous().squeeze(1)


def _store(rows: Tensor, planes: Tensor) -> None:
    """Write planes (4, n) to rows (n, 4); three-dimensional for the same reason."""
    rows[None].copy_(planes[:, None].permute(1, 2, 0))
