"""Modulated binary cross-entropy: the one formula behind focal, quality focal, varifocal and task-aligned focal loss.

Every member is `m(p, t) * BCE(x, t)` with logit x, p = sigmoid(x), target t in 0..1, and a modulator m that turns down
what is easy. A modulator returns m and its slope dm/dp, from which both the plain form (differentiated by autograd)
and the closed form (loss and gradient at once, for the kernels) follow.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "DistanceModulator",
    "FocalModulator",
    "Modulator",
    "VarifocalModulator",
    "background_loss_and_gradient",
    "loss_and_gradient",
    "modulated_cross_entropy",
]

# below this a base counts as this, so that a power below 1 keeps a finite slope
SMALLEST_BASE = 1e-30


class Background(NamedTuple):
    """What a modulator is at t = 0, where all of them are `weight * p**gamma`."""

    weight: Tensor | float
    gamma: float
    detach: bool


@dataclass(frozen=True, slots=True, eq=False)
class FocalModulator:
    """`(alpha t + (1 - alpha)(1 - t)) * ((1 - p) t + p (1 - t))**gamma` (Lin et al. 2017, arXiv:1708.02002).

    `alpha` is a number, a (C,) tensor or None for no weighting.
    """

    gamma: float
    alpha: Tensor | float | None = None

    @property
    def background(self) -> Background:
        """The modulator at t = 0."""
        return Background(1.0 if self.alpha is None else 1 - self.alpha, self.gamma, detach=False)

    def __call__(self, p: Tensor, t: Tensor, positive: Tensor, sloped: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return m and, where `sloped`, dm/dp."""
        sign = torch.rsub(t, 1, alpha=2)
        base = torch.addcmul(t, p, sign)
        power, slope = _power(base, self.gamma), _power_slope(base, self.gamma) if sloped else None
        if slope is not None:
            slope.mul_(sign)
        if self.alpha is None:
            return power, slope
        if isinstance(self.alpha, Tensor):
            balance = self.alpha * t + (1 - self.alpha) * (1 - t)
        else:
            balance = torch.rsub(t, 1 - self.alpha, alpha=1 - 2 * self.alpha)
        return power.mul_(balance), None if slope is None else slope.mul_(balance)

    def at(self, labels: Tensor) -> "FocalModulator":
        """Return the modulator of the given columns."""
        return replace(self, alpha=self.alpha[labels]) if isinstance(self.alpha, Tensor) else self


@dataclass(frozen=True, slots=True, eq=False)
class DistanceModulator:
    """`|p - t|**gamma`, the distance from a soft target (Li et al. 2020, arXiv:2006.04388); gamma 0 is plain BCE."""

    gamma: float

    @property
    def background(self) -> Background:
        """The modulator at t = 0."""
        return Background(1.0, self.gamma, detach=False)

    def __call__(self, p: Tensor, t: Tensor, positive: Tensor, sloped: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return m and, where `sloped`, dm/dp."""
        distance = p - t
        return _power(distance, self.gamma), _power_slope(distance, self.gamma) if sloped else None

    def at(self, labels: Tensor) -> "DistanceModulator":
        """Return the modulator of the given columns."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class VarifocalModulator:
    """t (or 1) where positive, `alpha * p**gamma` elsewhere, where t is 0 (Zhang et al. 2021, arXiv:2008.13367)."""

    gamma: float
    alpha: float
    weight_by_target: bool
    detach: bool

    @property
    def background(self) -> Background:
        """The modulator at t = 0."""
        return Background(self.alpha, self.gamma, self.detach)

    def __call__(self, p: Tensor, t: Tensor, positive: Tensor, sloped: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return m and, where `sloped`, dm/dp, which is None where the modulator counts as a constant."""
        positive = positive.to(p.dtype)
        # added up and not chosen by `where`, which takes as long as five products
        negative = torch.rsub(positive, self.alpha, alpha=self.alpha)
        factor = torch.addcmul(t if self.weight_by_target else positive, _power(p, self.gamma), negative)
        if self.detach:
            return factor.detach(), None
        return factor, _power_slope(p, self.gamma).mul_(negative) if sloped else None

    def at(self, labels: Tensor) -> "VarifocalModulator":
        """Return the modulator of the given columns."""
        return self


Modulator = FocalModulator | DistanceModulator | VarifocalModulator


def modulated_cross_entropy(
    inputs: Tensor, t: Tensor, positive: Tensor, modulator: Modulator, from_logits: bool = True
) -> Tensor:
    """Elementwise reference in plain PyTorch, differentiable by autograd.

    Args:
        inputs: logits, or probabilities where `from_logits` is False; float32 or float64.
        t: targets in 0..1, same shape.
        positive: bool, same shape, which entries are the class of an object.
        modulator: the member of the family.
        from_logits: whether `inputs` are logits.
    """
    if from_logits:
        p = inputs.sigmoid()
        cross_entropy = F.binary_cross_entropy_with_logits(inputs, t, reduction="none")
    else:
        p = inputs
        with torch.autocast(inputs.device.type, enabled=False):  # which refuses cross-entropy of probabilities
            cross_entropy = F.binary_cross_entropy(p, t, reduction="none")
    return modulator(p, t, positive)[0] * cross_entropy


def loss_and_gradient(x: Tensor, t: Tensor, positive: Tensor, modulator: Modulator) -> tuple[Tensor, Tensor]:
    """Elementwise loss and its derivative with respect to the logits x, in closed form."""
    p = x.sigmoid()
    cross_entropy = _softplus(x).addcmul_(x, t, value=-1)
    factor, slope = modulator(p, t, positive, sloped=True)
    gradient = (p - t).mul_(factor)
    if slope is not None:
        gradient.addcmul_(slope.mul_(cross_entropy), p.addcmul_(p, p, value=-1))
    return cross_entropy.mul_(factor), gradient


def background_loss_and_gradient(x: Tensor, background: Background) -> tuple[Tensor, Tensor]:
    """The same where every target is 0, which is nearly everywhere: half the work."""
    weight, gamma, detach = background
    p, softplus = x.sigmoid(), _softplus(x)
    factor = p.pow(gamma)
    if not (isinstance(weight, float) and weight == 1):
        factor.mul_(weight)
    # d/dx p^gamma softplus(x) = p^gamma (gamma (1 - p) softplus(x) + p)
    slope = p if detach else torch.add(p, torch.addcmul(softplus, softplus, p, value=-1), alpha=gamma)
    return softplus.mul_(factor), factor.mul_(slope)


def _power(base: Tensor, gamma: float) -> Tensor:
    """|base|**gamma."""
    if gamma == 2:
        return base.square()
    if gamma == 0:
        return torch.ones_like(base)
    size = base.abs()
    return (size.clamp(min=SMALLEST_BASE) if gamma < 1 else size).pow(gamma)


def _power_slope(base: Tensor, gamma: float) -> Tensor:
    """Slope of |base|**gamma, finite at 0."""
    if gamma == 2:
        return base * 2
    if gamma == 0:
        return torch.zeros_like(base)
    size = base.abs()
    if gamma < 1:
        size.clamp_(min=SMALLEST_BASE)
    return size.pow_(gamma - 1).mul_(base.sign()).mul_(gamma)


def _softplus(x: Tensor) -> Tensor:
    # torch's default threshold of 20 costs float64 its last digits
    return F.softplus(x, threshold=50)
