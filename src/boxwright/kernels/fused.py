# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The modulated cross-entropy as one Triton kernel: logits are read once, row sums and gradient written in one pass.

The formulas are those of `boxwright.kernels.modulated`, which is its reference. Import this module only where Triton is
installed.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from boxwright.kernels.modulated import SMALLEST_BASE, FocalModulator, Modulator, VarifocalModulator

__all__ = ["fill"]

FOCAL, DISTANCE, VARIFOCAL = 0, 1, 2


def fill(
    logits: Tensor,
    targets: Tensor,
    scores: Tensor | None,
    modulator: Modulator,
    sums: Tensor | None,
    gradient: Tensor | None,
    upstream: Tensor | None = None,
) -> None:
    """Write the row sums and the gradient (times upstream) into the tensors that are given.

    Args:
        logits: (N, C), float32 or half precision.
        targets: (N,) integer labels or (N, C) floating point targets.
        scores: (N,) target of the labelled class.
        modulator: the member of the family.
        sums: (N,) float32.
        gradient: (N, C) contiguous, of the logits' dtype.
        upstream: (N,) factor of the gradient.
    """
    logits = logits.contiguous()
    rows, classes = logits.shape
    alpha = modulator.alpha if isinstance(modulator, FocalModulator) else None
    # few classes beyond the end of a block are computed in vain
    columns = min(triton.next_power_of_2(classes), 16 if classes % 32 else 32)
    height = 1024 // columns
    _fused_modulated[(triton.cdiv(rows, height),)](
        logits,
        targets.contiguous(),
        logits if scores is None else scores.contiguous(),
        alpha if isinstance(alpha, Tensor) else logits,
        logits if sums is None else sums,
        logits if gradient is None else gradient,
        logits if upstream is None else upstream.contiguous(),
        rows,
        classes,
        SPARSE=not targets.is_floating_point(),
        HAS_SCORES=scores is not None,
        WANT_SUMS=sums is not None,
        WANT_GRADIENT=gradient is not None,
        HAS_UPSTREAM=upstream is not None,
        SMALLEST=SMALLEST_BASE,
        HEIGHT=height,
        COLUMNS=columns,
        **_constants(modulator),
    )


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


@triton.jit
def _fused_modulated(
    logits,
    targets,
    scores,
    alphas,
    sums,
    gradient,
    upstream,
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
    HAS_UPSTREAM: tl.constexpr,
    SMALLEST: tl.constexpr,
    HEIGHT: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * HEIGHT + tl.arange(0, HEIGHT)
    here = row < rows
    total = tl.zeros((HEIGHT,), tl.float32)
    label = tl.zeros((HEIGHT,), tl.int64)
    score = tl.full((HEIGHT,), 1.0, tl.float32)
    factor_above = tl.full((HEIGHT,), 1.0, tl.float32)
    if SPARSE:
        label = tl.load(targets + row, mask=here, other=-1).to(tl.int64)
        if HAS_SCORES:
            score = tl.load(scores + row, mask=here, other=0.0).to(tl.float32)
    if HAS_UPSTREAM:
        factor_above = tl.load(upstream + row, mask=here, other=0.0).to(tl.float32)
    for start in range(0, classes, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = here[:, None] & (column < classes)[None, :]
        at = row[:, None] * classes + column[None, :]
        x = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32)
        if SPARSE:
            positive = label[:, None] == column[None, :]
            t = tl.where(positive, score[:, None], 0.0)
        else:
            t = tl.load(targets + at, mask=inside, other=0.0).to(tl.float32)
            positive = t > 0
        small = tl.exp(-tl.abs(x))
        p = tl.where(x >= 0, 1.0, small) / (1.0 + small)
        # log(1 + small) rounds to 0 where small is below the precision of 1
        log1p = tl.where(small < 1e-4, small - 0.5 * small * small, tl.log(1.0 + small))
        cross_entropy = tl.maximum(x, 0.0) + log1p - x * t
        if FORM == 0:
            sign = 1.0 - 2.0 * t
            base = t + p * sign
        else:
            sign = tl.where(p > t, 1.0, tl.where(p < t, -1.0, 0.0))
            base = tl.abs(p - t)
        if GAMMA == 2.0:
            factor = base * base
            slope = 2.0 * base * sign
        elif GAMMA == 1.0:
            factor = base
            slope = sign
        elif GAMMA == 0.0:
            factor = base * 0.0 + 1.0
            slope = base * 0.0
        else:
            base = tl.maximum(base, SMALLEST)
            inner = tl.exp((GAMMA - 1.0) * tl.log(base))
            factor = inner * base
            slope = GAMMA * inner * sign
        if BALANCE == "class":
            alpha = tl.load(alphas + column, mask=column < classes, other=0.0).to(tl.float32)[None, :]
            balance = alpha * t + (1.0 - alpha) * (1.0 - t)
            factor *= balance
            slope *= balance
        elif BALANCE == "number":
            balance = ALPHA * t + (1.0 - ALPHA) * (1.0 - t)
            factor *= balance
            slope *= balance
        if FORM == 2:
            if WEIGHT_BY_TARGET:
                factor = tl.where(positive, t, ALPHA * factor)
            else:
                factor = tl.where(positive, 1.0, ALPHA * factor)
            slope = tl.where(positive, 0.0, ALPHA * slope)
        if WANT_SUMS:
            total += tl.sum(tl.where(inside, factor * cross_entropy, 0.0), axis=1)
        if WANT_GRADIENT:
            change = factor * (p - t)
            if not DETACH:
                change += slope * p * (1.0 - p) * cross_entropy
            change *= factor_above[:, None]
            tl.store(gradient + at, change.to(gradient.dtype.element_ty), mask=inside)
    if WANT_SUMS:
        tl.store(sums + row, total, mask=here)
