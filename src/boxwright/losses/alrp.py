"""Average localisation-recall-precision as a loss: one ranking for scores and boxes."""

import torch
from torch import Tensor

from boxwright.distributed import mean_over_processes
from boxwright.kernels.error_driven import Ranking, Scope, Update, error_driven
from boxwright.kernels.soft_count import Ramps
from boxwright.losses.module import LossModule
from boxwright.losses.ranking import check_ranked, check_rule

__all__ = ["ALRPLoss", "alrp_loss", "average_lrp"]

# a positive with less background above it is right where it is
SMALLEST = 1e-5


def alrp_loss(
    inputs: Tensor,
    targets: Tensor,
    box_losses: Tensor,
    *,
    delta: float = 1.0,
    tau: float = 0.7,
    scope: Scope = "batch",
) -> tuple[Tensor, Tensor]:
    """Average LRP: one minus the precision of the ranking, and the box losses of what lies above each positive.

    K. Oksuz et al., "A Ranking-based, Balanced Loss Function Unifying Classification and Localisation in Object
    Detection", 2020, arXiv:2009.13592. Exact. Each positive's score is updated by how wrong its rank and the boxes
    above it are; each box counts the more, the more positives rank below it and the better these rank.

    Args:
        inputs: (…, C) logits.
        targets: (…) integer labels, -1 background, -2 ignored; or (…, C): positive, 0 background, negative ignored.
        box_losses: the targets' shape, loss of each positive's box, such as 1 - GIoU; elsewhere without meaning.
        delta: half the width of the ramp that stands for the step.
        tau: overlap that a true positive needs; box losses count relative to `2 (1 - tau)` in the update of scores.
        scope: what is ranked together, as in `ap_loss`.

    Returns:
        Classification loss (its gradient goes to the logits) and localisation loss (to the box losses), two scalars,
        already normalised; 0 without positives.

    Raises:
        TypeError, ValueError: dtypes, shapes or hyper-parameters that do not fit.

    >>> logits, box_losses = torch.tensor([[1.0], [3.0], [0.0]]), torch.tensor([0.2, 0.4, 0.0])
    >>> alrp_loss(logits, torch.tensor([0, 0, -1]), box_losses)
    (tensor(0.), tensor(0.3500))
    """
    check_ranked(inputs, targets, delta, scope)
    if box_losses.shape != targets.shape:
        raise ValueError(
            f"box_losses must have the targets' shape {tuple(targets.shape)}, got {tuple(box_losses.shape)}"
        )
    _check_tau(tau)
    loss, weights = _alrp(inputs, targets, box_losses / (2 * (1 - tau)), delta, scope)
    positive = targets >= 0 if targets.ndim < inputs.ndim else targets > 0
    return loss, (weights * torch.where(positive, box_losses, 0)).sum()


class ALRPLoss(LossModule):
    """Module of `alrp_loss` with self-balancing; `forward(inputs, targets, box_losses)`, so it needs `ALRPCriterion`.

    The localisation loss is multiplied by the ratio of the whole loss to its localisation part, averaged over the last
    full period, so that scores and boxes get gradients of one size.

    Args:
        delta: as in `alrp_loss`.
        tau: as in `alrp_loss`.
        scope: as in `alrp_loss`.
        balance: factor of the localisation loss in the first period.
        period: steps over which the ratio is averaged; published is one epoch, 7330 steps of 16 images of COCO.

    Raises:
        ValueError: a hyper-parameter out of its range, or an unknown scope.
    """

    balance: Tensor
    history: Tensor

    def __init__(
        self,
        delta: float = 1.0,
        tau: float = 0.7,
        scope: Scope = "batch",
        balance: float = 50.0,
        period: int = 7330,
    ) -> None:
        super().__init__()
        check_rule(delta, scope)
        _check_tau(tau)
        if period < 1:
            raise ValueError(f"period must be at least 1 step, got {period}")
        self.delta, self.tau, self.scope, self.period = delta, tau, scope, period
        self.register_buffer("balance", torch.tensor(balance, dtype=torch.float32))
        self.register_buffer("history", torch.zeros(3, dtype=torch.float32))  # classification, localisation, steps

    def forward(self, inputs: Tensor, targets: Tensor, box_losses: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the two losses; in training this counts as a step."""
        classification, localization = alrp_loss(
            inputs, targets, box_losses, delta=self.delta, tau=self.tau, scope=self.scope
        )
        balanced = localization * self.balance.clone()  # which the backward pass needs as it was
        if self.training:
            self._remember(classification, localization)
        return classification, balanced

    def _remember(self, classification: Tensor, localization: Tensor) -> None:
        parts = torch.stack([classification, localization, classification.new_ones(())])
        history = self.history + mean_over_processes(parts)
        full = history[2] >= self.period
        ratio = history[:2].sum() / history[1]
        self.balance.copy_(torch.where(full & (history[1] > 0), ratio, self.balance))
        self.history.copy_(torch.where(full, 0, history))


def _check_tau(tau: float) -> None:
    if not tau < 1:
        raise ValueError(f"tau must be below 1, got {tau}")


@torch.no_grad()
def average_lrp(
    inputs: Tensor, targets: Tensor, box_losses: Tensor, *, tau: float = 0.7, scope: Scope = "batch"
) -> Tensor:
    """Average LRP error of a ranking with hard steps, as a metric; arguments as in `alrp_loss`.

    Every process gets that of the global batch; 0 without positives.

    >>> average_lrp(torch.tensor([[3.0], [0.5], [1.0]]), torch.tensor([0, 0, -1]), torch.tensor([0.0, 0.6, 0.0]))
    tensor(0.3333)
    """
    classification, localization = alrp_loss(inputs, targets, box_losses, delta=0.0, tau=tau, scope=scope)
    return mean_over_processes(classification + localization / (2 * (1 - tau)))


@error_driven(terms=1)
def _alrp(ranking: Ranking) -> Update:
    share, false, ramps = ranking.share, ranking.background, ranking.ramps
    itself = 0.5 if ramps.delta > 0 else 1.0
    boxes = ranking.quality_above - itself * ranking.quality
    rank = 1 + ranking.above - itself + false
    # per unit of the background that lies above
    wrong = torch.where(false > SMALLEST, (boxes + false) / (rank * false), 0)
    steps = Ramps.around(ranking.scores, ranking.group, ramps.outer.shape[1], 0.0)
    return Update(
        losses=(share * false / rank).sum()[None],
        positives=(-share * wrong * false)[None],
        background=(share * wrong)[None],
        weights=steps.sums_at_thresholds(share / rank),
    )
