"""Box regression with a predicted uncertainty."""

from typing import ClassVar

from torch import Tensor

from boxwright.kernels.overlap import floor
from boxwright.losses.boxes import BoxLoss
from boxwright.losses.l1 import smooth_l1_loss
from boxwright.losses.reduction import Reduction, reduce, upcast, weighted

__all__ = ["GaussianLoss", "gaussian_loss"]


def gaussian_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    least: float = -10.0,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """KL divergence of a predicted Gaussian and the exact target (He et al. 2019, arXiv:1809.08545).

    `exp(-a) smooth_l1(x - t) + a / 2`, where `a = ln σ²` is predicted beside x; constants are left out, so the loss of
    a confident and right box is negative.

    Args:
        inputs: (…, 2 D): D deltas, then their D logarithms of the variance.
        targets: (…, D) deltas.
        least: smallest logarithm that counts; without it the loss of an exact prediction has no lower end.
        weight: (…) per box or (…, D) per coordinate.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of coordinates.

    Raises:
        ValueError: the last dimension of `inputs` is not twice that of `targets`.
    """
    if inputs.shape != (*targets.shape[:-1], 2 * targets.shape[-1]):
        raise ValueError(
            f"inputs must hold a value and a variance for each target {tuple(targets.shape)}, got {tuple(inputs.shape)}"
        )
    values, log_variance = upcast(inputs).chunk(2, dim=-1)
    log_variance = floor(log_variance, least)
    loss = (-log_variance).exp() * smooth_l1_loss(values, targets) + log_variance / 2
    return reduce(weighted(loss, weight), reduction, normalizer)


class GaussianLoss(BoxLoss):
    """Module of `gaussian_loss`."""

    space: ClassVar[str] = "gaussian"
    function = staticmethod(gaussian_loss)

    def __init__(self, least: float = -10.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, least=least)
