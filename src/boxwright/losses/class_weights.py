"""Class weights (float64) from how often each class occurs; every classification loss takes them as `class_weight`."""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["balanced", "class_weights", "effective_number"]

EFFECTIVE_NUMBER = re.compile(r"effective_number\((?P<beta>[0-9.eE+-]+)\)")


def balanced(counts: Tensor | Sequence[int]) -> Tensor:
    """(C,) weights inversely proportional to the counts, with sum C; classes that do not occur have weight 1.

    >>> balanced([300, 100])
    tensor([0.5000, 1.5000], dtype=torch.float64)
    """
    return _normalised(_counts(counts).reciprocal())


def effective_number(counts: Tensor | Sequence[int], beta: float = 0.999) -> Tensor:
    """(C,) weights `(1 - beta) / (1 - beta**n)` with sum C (Cui et al. 2019, arXiv:1901.05555).

    Classes that do not occur have weight 1. beta 0 weighs all alike, beta towards 1 (and 1 itself) as `balanced`.

    Raises:
        ValueError: beta is outside 0..1.

    >>> effective_number([5000, 50], beta=0.9999)
    tensor([0.0250, 1.9750], dtype=torch.float64)
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie in 0..1, got {beta}")
    number = _counts(counts)
    if beta == 1:
        return balanced(counts)
    if beta == 0:
        return torch.ones_like(number)
    # 1 - beta**n without losing the digits of a beta near 1; the factor 1 - beta goes with the normalisation
    return _normalised((-torch.expm1(number * math.log(beta))).reciprocal())


def class_weights(rule: str, counts: Tensor | Sequence[int]) -> Tensor:
    """Weights by a rule in words: "balanced" or "effective_number(0.999)".

    Raises:
        ValueError: the rule is neither.
    """
    if rule == "balanced":
        return balanced(counts)
    match = EFFECTIVE_NUMBER.fullmatch(rule)
    if match is None:
        raise ValueError(f"class_weight must be numbers, 'balanced' or 'effective_number(beta)', got {rule!r}")
    return effective_number(counts, float(match["beta"]))


def _counts(counts: Tensor | Sequence[int]) -> Tensor:
    number = torch.as_tensor(counts, dtype=torch.float64)
    if number.ndim != 1 or (number < 0).any():
        raise ValueError(f"counts must be one number per class, none below 0, got {number.tolist()}")
    return number


def _normalised(weight: Tensor) -> Tensor:
    """Scale to a mean of 1 over the classes that occur (finite weights); 1 for the others."""
    occurs = weight.isfinite()
    weight = torch.where(occurs, weight, 0)
    scaled = weight * occurs.sum() / weight.sum()
    return torch.where(occurs, scaled, 1)
