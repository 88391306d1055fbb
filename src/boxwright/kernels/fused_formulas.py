# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The formulas of `boxwright.kernels.modulated` for one entry, as Triton functions in as few instructions as they take.

Import this module only where Triton is installed.
"""

import triton
import triton.language as tl
from triton import knobs
from triton.language.extra import libdevice

__all__ = ["background", "modulated"]

# the interpreter knows no libdevice
INTERPRETED = tl.constexpr(knobs.runtime.interpret)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def background(x, alpha, GAMMA: tl.constexpr, FORM: tl.constexpr, BALANCED: tl.constexpr, DETACH: tl.constexpr):
    """Loss and gradient at t = 0: `w p^gamma softplus(x)` and `w p^gamma (gamma (1 - p) softplus(x) + p)`."""
    # exp(-x) may be infinite; what 1 - p loses by rounding is small beside p
    p = _divide(1.0, 1.0 + _exp2(x * -LOG2_E))
    q = 1.0 - p
    log1p = _log1p(tl.minimum(p, q))
    softplus = tl.maximum(x, 0.0) + log1p
    if GAMMA == 2.0:
        power = p * p
    elif GAMMA == 1.0:
        power = p
    elif GAMMA == 0.0:
        power = p * 0.0 + 1.0
    else:
        power = _exp2((tl.minimum(x, 0.0) - log1p) * (GAMMA * LOG2_E))
    if FORM == 2:
        power *= alpha
    elif BALANCED:
        power *= 1.0 - alpha
    slope = p
    if not DETACH:
        slope += GAMMA * (q * softplus)
    return power * softplus, power * slope


@triton.jit
def modulated(
    x,
    t,
    positive,
    alpha,
    GAMMA: tl.constexpr,
    FORM: tl.constexpr,
    BALANCED: tl.constexpr,
    WEIGHT_BY_TARGET: tl.constexpr,
    DETACH: tl.constexpr,
    SMALLEST: tl.constexpr,
):
    """Loss and gradient at any target."""
    p, q, log1p = _sigmoid(x)
    cross_entropy = tl.maximum(x, 0.0) + log1p - x * t
    # p - t, from whichever of p and 1 - p has not been rounded away
    distance = tl.where(x >= 0, (1.0 - t) - q, p - t)
    if FORM == 0:
        sign = 1.0 - 2.0 * t
        base = q * t + p * (1.0 - t)
    else:
        sign = tl.where(distance > 0, 1.0, tl.where(distance < 0, -1.0, 0.0))
        base = tl.abs(distance)
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
    if FORM == 2:
        factor = tl.where(positive, t if WEIGHT_BY_TARGET else 1.0, alpha * factor)
        slope = tl.where(positive, 0.0, alpha * slope)
    elif BALANCED:
        balance = alpha * t + (1.0 - alpha) * (1.0 - t)
        factor *= balance
        slope *= balance
    gradient = factor * distance
    if not DETACH:
        gradient += slope * p * q * cross_entropy
    return factor * cross_entropy, gradient


@triton.jit
def _sigmoid(x):
    """p = sigmoid(x), 1 - p, and log(1 + exp(-|x|)), all with the relative precision of float32."""
    small = _exp2(tl.abs(x) * -LOG2_E)
    minor = _divide(small, 1.0 + small)
    major = 1.0 - minor
    p = tl.where(x >= 0, major, minor)
    q = tl.where(x >= 0, minor, major)
    return p, q, _log1p(minor)


@triton.jit
def _log1p(minor):
    """log(1 + exp(-|x|)) of the smaller one of sigmoid(x) and 1 - sigmoid(x), with a relative error below 3e-7.

    The best polynomial for -log(1 - m) / m on 0..1/2; the logarithm would lose the digits that 1 - m rounds away.
    """
    ratio = 1.1849048137664795 * minor - 1.081496000289917
    ratio = ratio * minor + 0.7854026556015015
    ratio = ratio * minor + 0.03802701458334923
    ratio = ratio * minor + 0.27224910259246826
    ratio = ratio * minor + 0.3318627178668976
    ratio = ratio * minor + 0.5000365376472473
    ratio = ratio * minor + 0.9999998807907104
    return ratio * minor


@triton.jit
def _exp2(x):
    """2^x in one instruction; 0 where that is below 2^-126."""
    return tl.exp2(x) if INTERPRETED else libdevice.exp2(x)


@triton.jit
def _divide(x, y):
    """x / y in two instructions, for 2^-126 < y < 2^126."""
    return x / y if INTERPRETED else libdevice.fast_dividef(x, y)
