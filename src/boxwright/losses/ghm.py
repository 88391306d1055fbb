"""Gradient harmonizing: entries weigh inversely to how many have a gradient of about the same length."""

from typing import ClassVar, Unpack, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.distributed import all_reduce_sum, world_size
from boxwright.kernels import dense_targets
from boxwright.losses.module import LossModule
from boxwright.losses.pointwise import ClassificationLoss, ClassWeight, Common, check_targets, row_weight_of
from boxwright.losses.reduction import Reduction, check_choice, reduce, upcast, upcast_pair, weighted

__all__ = ["GHMCLoss", "GHMRLoss"]


class GradientDensity(LossModule):
    """How many entries fall into each bin of gradient length 0..1, over all processes, with a running mean.

    The buffer `running` (bins,) holds the running count of each bin; a bin without entries keeps its count. It starts
    at 0 without correction, as published, and changes in training mode only.
    """

    running: Tensor

    def __init__(self, bins: int, momentum: float) -> None:
        super().__init__()
        if bins < 1 or not 0 <= momentum < 1:
            raise ValueError(f"bins must be at least 1 and momentum in 0..1 (not 1), got {bins} and {momentum}")
        self.bins, self.momentum = bins, momentum
        self.register_buffer("running", torch.zeros(bins, dtype=torch.float64))

    def forward(self, length: Tensor, valid: Tensor) -> Tensor:
        """Return 1 / (count of the entry's bin * number of non-empty bins) for each entry, 0 where not valid."""
        edges = torch.arange(1, self.bins, device=length.device, dtype=length.dtype) / self.bins
        index = torch.bucketize(length.contiguous(), edges, right=True)
        index.masked_fill_(~valid, self.bins)  # one bin more, for what does not count
        one = torch.ones((), dtype=torch.int64, device=length.device)
        counts = torch.zeros(self.bins + 1, dtype=torch.int64, device=length.device)
        counts = counts.scatter_add(0, index.flatten(), one.expand(index.numel()))[:-1]
        counts = all_reduce_sum(counts).to(self.running.dtype)
        moved = self.momentum * self.running + (1 - self.momentum) * counts
        filled = counts > 0
        density = torch.where(filled, moved, self.running)
        if self.training:
            self.running.copy_(density)
        share = 1 / (density * filled.sum())  # of an empty bin, infinite, nothing is looked up
        return F.pad(share, (0, 1)).to(length.dtype)[index]


class GHMCLoss(ClassificationLoss):
    """Sigmoid cross-entropy, weighted by the inverse density of `|p - t|` (Li et al. 2019, arXiv:1811.05181).

    Each entry is worth `total / count of its bin / number of non-empty bins`, and "mean" divides by `total`, the
    number of valid entries: the loss brings its own normaliser and a `normalizer` is not used. `weight` only selects
    (an entry is valid where it is above 0).

    Args:
        bins: number of bins of `|p - t|` in 0..1.
        momentum: of the running counts, from 0 (each batch is counted by itself) to below 1.
        class_weight: see `ClassificationLoss`.
        reduction: "none" gives (…, C); "sum", "mean" or "image".

    Raises:
        ValueError: a hyper-parameter out of its range.

    >>> torch.manual_seed(0).initial_seed()
    0
    >>> GHMCLoss(bins=10)(torch.randn(4, 3), torch.tensor([0, -1, -1, -2])).shape
    torch.Size([])
    """

    def __init__(
        self,
        bins: int = 30,
        momentum: float = 0.75,
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(class_weight, reduction)
        self.density = GradientDensity(bins, momentum)

    def compute(self, inputs: Tensor, targets: Tensor, **common: Unpack[Common]) -> Tensor:
        """Return the harmonized cross-entropy."""
        check_targets(inputs, targets, common["scores"], common["class_weight"])
        x = upcast(inputs)
        t, _ = dense_targets(x, targets, common["scores"])
        row_weight = row_weight_of(targets, common["class_weight"])
        chosen = weighted(weighted(torch.ones_like(x), row_weight), common["weight"]) > 0
        loss = F.binary_cross_entropy_with_logits(x, t, reduction="none")
        length = (x.detach().sigmoid() - t).abs()
        return harmonized(weighted(loss, row_weight), length, chosen, self.density, chosen.sum(), self.reduction)


class GHMRLoss(LossModule):
    """`sqrt(e**2 + mu**2) - mu` of an encoded box's error e, weighted by the inverse density of its slope.

    Li et al. 2019, arXiv:1811.05181. As `GHMCLoss` it brings its own normaliser, the sum of the weights, and `weight`
    only selects entries.

    Args:
        mu: where the loss turns from squared to linear.
        bins: number of bins.
        momentum: of the running counts, from 0 (each batch is counted by itself) to below 1.
        reduction: "none" gives (…, 4); "sum", "mean" or "image".

    Raises:
        ValueError: a hyper-parameter out of its range.
    """

    space: ClassVar[str] = "deltas"

    def __init__(self, mu: float = 0.02, bins: int = 10, momentum: float = 0.7, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
        if not mu > 0:
            raise ValueError(f"mu must be positive, got {mu}")
        self.mu, self.reduction = mu, reduction
        self.density = GradientDensity(bins, momentum)

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        """Compute the loss of deltas (…, 4); weight (…) or (…, 4); `normalizer` is not used."""
        inputs, targets = upcast_pair(inputs, targets)
        error = inputs - targets
        square = error.square()
        root = (square + self.mu**2).sqrt()
        # sqrt(e^2 + mu^2) - mu without the cancellation near 0
        loss = square / (root + self.mu)
        valued = weighted(torch.ones_like(error), weight)
        length = (error / root).abs()
        return harmonized(loss, length, valued > 0, self.density, valued.sum(), self.reduction)


def harmonized(
    loss: Tensor, length: Tensor, valid: Tensor, density: GradientDensity, total: Tensor, reduction: Reduction
) -> Tensor:
    """Weigh an elementwise loss by the inverse density of its gradient lengths; "mean" divides by `total`."""
    total = all_reduce_sum(total.detach())
    loss = loss * (density(length, valid) * total)
    # data-parallel training averages gradients, so each process divides by its share of the total
    return reduce(loss, reduction, counted=total / world_size())
