# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The modulated cross-entropy as one Triton kernel: logits are read once, row sums and gradient written in one pass.

`boxwright.kernels.modulated` is its reference. With labels nearly every entry is background, whose formula is half as
long; the one labelled entry of each row is computed apart and written last.
Import this module only where Triton is installed.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from boxwright.kernels.fused_formulas import background, modulated
from boxwright.kernels.modulated import SMALLEST_BASE, FocalModulator, Modulator, VarifocalModulator

__all__ = ["fill", "rescale"]

FOCAL, DISTANCE, VARIFOCAL = 0, 1, 2
# entries of a block at a time: eight per thread, so that enough loads are on their way
TILE = 1024
WARPS = 4
# a logit whose background loss and gradient are exactly 0
NOTHING = tl.constexpr(-1e4)


def fill(
    logits: Tensor,
    targets: Tensor,
    scores: Tensor | None,
    modulator: Modulator,
    sums: Tensor | None,
    gradient: Tensor | None,
    factor: Tensor | None = None,
) -> None:
    """Write the row sums and the gradient, both times `factor`, into the tensors that are given.

    Args:
        logits: (N, C), float32 or half precision.
        targets: (N,) integer labels or (N, C) floating point targets.
        scores: (N,) target of the labelled class.
        modulator: the member of the family.
        sums: (N,) float32.
        gradient: (N, C) contiguous, of the logits' dtype.
        factor: (N,) of each row.
    """
    logits = logits.contiguous()
    alpha = modulator.alpha if isinstance(modulator, FocalModulator) else None
    grid, shape = _tiles(logits)
    _fused_modulated[grid](
        logits,
        targets.contiguous(),
        logits if scores is None else scores.contiguous(),
        alpha if isinstance(alpha, Tensor) else logits,
        logits if sums is None else sums,
        logits if gradient is None else gradient,
        logits if factor is None else factor.contiguous(),
        *logits.shape,
        SPARSE=not targets.is_floating_point(),
        HAS_SCORES=scores is not None,
        WANT_SUMS=sums is not None,
        WANT_GRADIENT=gradient is not None,
        HAS_FACTOR=factor is not None,
        SMALLEST=SMALLEST_BASE,
        num_warps=WARPS,
        **shape,
        **_constants(modulator),
    )


def rescale(gradient: Tensor, factor: Tensor) -> None:
    """Multiply the rows of (N, C) by (N,) in place; where the factor is 1, nothing is read or written."""
    grid, shape = _tiles(gradient)
    _rescale[grid](gradient, factor.contiguous(), *gradient.shape, num_warps=WARPS, **shape)


def _tiles(logits: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """Blocks of whole rows, each read in tiles of HEIGHT x COLUMNS."""
    rows, classes = logits.shape
    # few classes beyond the end of a tile are computed in vain
    columns = min(triton.next_power_of_2(classes), 16 if classes % 32 else 32)
    height = TILE // columns
    return (triton.cdiv(rows, height),), {"HEIGHT": height, "COLUMNS": columns}


def _constants(modulator: Modulator) -> dict[str, Any]:
    constants: dict[str, Any] = {"GAMMA": float(modulator.gamma), "DETACH": modulator.background.detach}
    alpha, balance, by_target, form = 1.0, "none", False, DISTANCE
    if isinstance(modulator, FocalModulator):
        form = FOCAL
        if isinstance(modulator.alpha, Tensor):
            balance = "class"
        elif modulator.alpha is not None:
            alpha, balance = float(modulator.alpha), "number"
    elif isinstance(modulator, VarifocalModulator):
        form, alpha, by_target = VARIFOCAL, float(modulator.alpha), modulator.weight_by_target
    return constants | {"FORM": form, "ALPHA": alpha, "BALANCE": balance, "WEIGHT_BY_TARGET": by_target}


# the number of rows varies between batches; nothing is gained by compiling for it
@triton.jit(do_not_specialize=["rows"])
def _fused_modulated(
    logits,
    targets,
    scores,
    alphas,
    sums,
    gradient,
    factors,
    rows,
    classes,
    GAMMA: tl.constexpr,
    FORM: tl.constexpr,
    ALPHA: tl.constexpr,
    BALANCE: tl.constexpr,
    WEIGHT_BY_TARGET: tl.constexpr,
    DETACH: tl.constexpr,
    SPARSE: tl.constexpr,
    HAS_SCORES: tl.constexpr,
    WANT_SUMS: tl.constexpr,
    WANT_GRADIENT: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    SMALLEST: tl.constexpr,
    HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    # 64 bits where a block begins, 32 inside of it
    first = tl.program_id(0).to(tl.int64) * HEIGHT
    row = tl.arange(0, HEIGHT)
    here = row < tl.minimum(rows - first, HEIGHT).to(tl.int32)
    logits += first * classes
    targets += first if SPARSE else first * classes
    factor = tl.full((HEIGHT,), 1.0, tl.float32)
    if HAS_FACTOR:
        factor = tl.load(factors + first + row, mask=here, other=0.0).to(tl.float32)
    total = tl.zeros((HEIGHT, COLUMNS), tl.float32)
    if SPARSE:
        label = tl.load(targets + row, mask=here, other=-1).to(tl.int32)
        labelled = here & (label >= 0) & (label < classes)
        label = tl.where(labelled, label, -1)
    column = tl.arange(0, COLUMNS)
    at = row[:, None] * classes + column[None, :]
    inside = here[:, None] & (column < classes)[None, :]
    next_x = tl.load(logits + at, mask=inside, other=NOTHING)
    if not SPARSE:
        next_t = tl.load(targets + at, mask=inside, other=0.0)
    for start in range(0, classes, COLUMNS):
        x = next_x.to(tl.float32)
        # the next tile is on its way while this one is computed
        end = start + COLUMNS
        further = here[:, None] & (column < classes - end)[None, :]
        next_x = tl.load(logits + end + at, mask=further, other=NOTHING)
        inside = here[:, None] & (column < classes - start)[None, :]
        alpha = tl.full((COLUMNS,), ALPHA, tl.float32)
        if BALANCE == "class":
            alpha = tl.load(alphas + start + column, mask=column < classes - start, other=0.0).to(tl.float32)
        if SPARSE:
            loss, slope = background(x, alpha[None, :], GAMMA, FORM, BALANCE != "none", DETACH)
            counted = label[:, None] != (start + column)[None, :]
        else:
            t = next_t.to(tl.float32)
            next_t = tl.load(targets + end + at, mask=further, other=0.0)
            loss, slope = modulated(
                x, t, t > 0, alpha[None, :], GAMMA, FORM, BALANCE != "none", WEIGHT_BY_TARGET, DETACH, SMALLEST
            )
            counted = inside
        if WANT_SUMS:
            total = tl.where(counted, total + loss, total)
        if WANT_GRADIENT:
            change = slope * factor[:, None]
            tl.store(gradient + first * classes + start + at, change.to(gradient.dtype.element_ty), mask=inside)
    row_sum = tl.sum(total, axis=1)
    if SPARSE:
        score = tl.full((HEIGHT,), 1.0, tl.float32)
        if HAS_SCORES:
            score = tl.load(scores + first + row, mask=here, other=0.0).to(tl.float32)
        alpha = tl.full((HEIGHT,), ALPHA, tl.float32)
        if BALANCE == "class":
            alpha = tl.load(alphas + label, mask=labelled, other=0.0).to(tl.float32)
        x = tl.load(logits + row * classes + label, mask=labelled, other=0.0).to(tl.float32)
        loss, slope = modulated(
            x, score, labelled, alpha, GAMMA, FORM, BALANCE != "none", WEIGHT_BY_TARGET, DETACH, SMALLEST
        )
        row_sum += tl.where(labelled, loss, 0.0)
        if WANT_GRADIENT:
            change = (slope * factor).to(gradient.dtype.element_ty)
            # other threads wrote the background's gradient there
            tl.debug_barrier()
            tl.store(gradient + first * classes + row * classes + label, change, mask=labelled)
    if WANT_SUMS:
        tl.store(sums + first + row, row_sum * factor, mask=here)


@triton.jit(do_not_specialize=["rows"])
def _rescale(gradient, factors, rows, classes, HEIGHT: tl.constexpr, COLUMNS: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * HEIGHT
    row = tl.arange(0, HEIGHT)
    here = first + row < rows
    factor = tl.load(factors + first + row, mask=here, other=1.0).to(tl.float32)
    if tl.max(tl.where(factor == 1.0, 0, 1), axis=0) == 1:
        gradient += first * classes
        for start in range(0, classes, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            inside = here[:, None] & (column < classes)[None, :]
            at = row[:, None] * classes + column[None, :]
            value = tl.load(gradient + at, mask=inside).to(tl.float32) * factor[:, None]
            tl.store(gradient + at, value.to(gradient.dtype.element_ty), mask=inside)
