"""What every prior contributes to the losses of an image."""

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn

from boxwright.criteria import DenseCriterion
from boxwright.structures import Predictions, Priors, Targets

__all__ = ["loss_shares", "with_assigner"]

_Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
_PARTS: Final = ("classification", "box", "distribution", "quality")


def with_assigner(criterion: DenseCriterion, assigner: Any) -> DenseCriterion:
    """Return a criterion with another assigner and the same losses."""
    changed = copy.deepcopy(criterion)
    del changed.assigner  # in the place of a module stands nothing but a module
    changed.assigner = assigner
    return changed


@torch.no_grad()
def loss_shares(
    criterion: DenseCriterion, predictions: Predictions, priors: Priors, targets: Targets
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Divide the losses of a batch among the priors.

    The criterion is called once; then each of its losses is asked again, with the arguments it got, for its elements
    before they are summed. So the shares of a term are to each other as the elements are, and sum up to the term,
    whatever weights and normalises it.

    Args:
        criterion: what trains the network.
        predictions: of the batch.
        priors: L.
        targets: the objects.

    Returns:
        (B, L) share of every prior in each term that is a sum over priors, and the value of every term. A loss that
        ranks priors against each other has no shares.
    """
    criterion = copy.deepcopy(criterion)  # some losses gather statistics as they are called
    calls: dict[str, _Call] = {}
    for name in _PARTS:
        if isinstance(part := getattr(criterion, name), nn.Module):
            part.register_forward_pre_hook(_recorder(name, calls), with_kwargs=True)
    losses = criterion(predictions, priors, targets)
    shares = {}
    for name, call in calls.items():
        elements = _elements(*call)
        if name in losses and elements is not None:
            shares[name] = _scaled(elements, losses[name])
    return shares, {name: float(loss) for name, loss in losses.items()}


def _recorder(name: str, calls: dict[str, _Call]) -> Any:
    def hook(part: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        # of a guide's call and the head's the head's stays, which comes last
        calls[name] = copy.deepcopy(part), arguments, options

    return hook


def _elements(part: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Tensor | None:
    """Return a loss by prior (B, L) before it is reduced; None where the criterion asks for no sum over priors."""
    single: Any = part
    if getattr(single, "reduction", "none") == "none":
        return None
    single.reduction = "none"
    loss: Tensor = single(*arguments, **{name: value for name, value in options.items() if name != "normalizer"})
    images, priors = arguments[0].shape[:2]
    return loss.reshape(images, priors, -1).sum(-1)


def _scaled(elements: Tensor, total: Tensor) -> Tensor:
    """Elements in proportion, with a given sum."""
    whole = elements.sum()
    return elements * torch.where(whole == 0, 0.0, total / whole)
