"""Distance of boxes seen as Gaussians, for objects so small that overlaps say nothing."""

from functools import partial

from torch import Tensor

from boxwright.kernels.overlap import PairGeometry
from boxwright.losses.boxes import BoxLoss, overlap_loss
from boxwright.losses.reduction import Reduction

__all__ = ["NormalizedWassersteinLoss", "normalized_wasserstein_loss"]


def normalized_wasserstein_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    constant: float = 12.8,
    eps: float = 1e-7,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """`1 - exp(-W2 / constant)` (Wang et al. 2021, arXiv:2110.13389).

    `W2² = dx² + dy² + ((w - w_t)² + (h - h_t)²) / 4`, the squared 2-Wasserstein distance of two Gaussians.

    Args:
        inputs: (…, 4) xyxy predictions.
        targets: (…, 4) xyxy in the same units.
        constant: scale of the distance in the units of the boxes: the mean absolute size of the objects (12.8 pixels
            in the paper's aerial images).
        eps: rounds the tip of the root, so that the gradient is 0 where boxes agree.
        weight: (…) per pair.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of pairs.

    Raises:
        ValueError: shapes differ or are not (…, 4), or the constant is not positive.
    """
    if not constant > 0:
        raise ValueError(f"constant must be positive, got {constant}")
    formula = partial(_normalized_wasserstein, constant=constant, eps=eps)
    return overlap_loss(formula, inputs, targets, weight, reduction, normalizer)


def _normalized_wasserstein(pair: PairGeometry, constant: float, eps: float) -> Tensor:
    squared = pair.squared_distance + (pair.size - pair.target_size).square().sum(0) / 4
    similarity: Tensor = ((eps**0.5 - (squared + eps).sqrt()) / constant).exp()
    return 1 - similarity


class NormalizedWassersteinLoss(BoxLoss):
    """Module of `normalized_wasserstein_loss`."""

    function = staticmethod(normalized_wasserstein_loss)

    def __init__(self, constant: float = 12.8, eps: float = 1e-7, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, constant=constant, eps=eps)
