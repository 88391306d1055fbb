"""A criterion that changes after the first epochs."""

from torch import Tensor, nn

from boxwright.criteria.dense import BoxCoder, DenseCriterion
from boxwright.structures import Predictions, Priors, Targets

__all__ = ["PhasedCriterion"]


class PhasedCriterion(nn.Module):
    """One criterion in the first epochs, another from then on.

    So trains TOOD (Feng et al. 2021, arXiv:2108.07755): predictions say where boxes and classes agree only once they
    have been trained by a geometric assignment. The engine calls `set_epoch` at the start of every epoch, also after a
    resume, so that nothing needs saving.

    Args:
        first: the criterion of the first epochs.
        then: the criterion afterwards; its coder decodes.
        epochs: how many epochs are the first.
    """

    def __init__(self, first: DenseCriterion, then: DenseCriterion, epochs: int) -> None:
        super().__init__()
        self.first = first
        self.then = then
        self.epochs = epochs
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the criterion of an epoch, counted from 0."""
        self.in_first = epoch < self.epochs  # a flag, not the number, so that a compiled graph changes once

    @property
    def current(self) -> DenseCriterion:
        """The criterion of this epoch."""
        return self.first if self.in_first else self.then

    @property
    def coder(self) -> BoxCoder:
        """What decodes boxes."""
        return self.then.coder

    @property
    def positives(self) -> Tensor:
        """As in `DenseCriterion`."""
        return self.current.positives

    @property
    def normalizer(self) -> Tensor:
        """As in `DenseCriterion`."""
        return self.current.normalizer

    def forward(self, predictions: Predictions, priors: Priors, targets: Targets) -> dict[str, Tensor]:
        """Return the losses of the epoch's criterion."""
        losses: dict[str, Tensor] = self.current(predictions, priors, targets)
        return losses
