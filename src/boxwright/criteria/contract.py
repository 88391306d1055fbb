"""What a criterion's parts, which may be the user's own, must answer."""

from typing import Any

import torch
from torch import Tensor

from boxwright.errors import PartError
from boxwright.structures import IGNORED, Assignment, Targets

__all__ = ["check_assignment", "check_loss", "check_matches"]


def check_assignment(assigner: Any, answer: Any, shape: tuple[int, int]) -> None:
    """Refuse an answer of an assigner that is none for (B, L) priors; looks at no values.

    Raises:
        PartError: names the assigner and what it answered.
    """
    name = _name(assigner)
    if not isinstance(answer, Assignment):
        raise PartError(f"{name} must return an Assignment(gt_index, score), got {type(answer).__name__}")
    index, score = answer.gt_index, answer.score
    if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.shape != shape:
        raise PartError(f"{name} must return gt_index {shape} in torch.int64, got {_form(index)}")
    if not isinstance(score, Tensor) or not score.is_floating_point() or score.shape != shape:
        raise PartError(f"{name} must return score {shape} in torch.float32, got {_form(score)}")


def check_matches(assigner: Any, assignment: Assignment, targets: Targets) -> None:
    """Refuse matches with what is no object; waits for the device.

    Raises:
        PartError: names the assigner, the image, the prior and its match.
    """
    index, objects = assignment.gt_index, targets.objects
    count = objects.shape[1]
    if count == 0:
        wrong = (index < IGNORED) | (index >= 0)
    else:
        wrong = (index < IGNORED) | (index >= count)
        wrong |= (index >= 0) & ~objects.gather(1, index.clamp(0, count - 1))
    if wrong.any():
        image, prior = wrong.nonzero()[0].tolist()
        found, present = int(index[image, prior]), objects[image].nonzero()[:, 0].tolist()
        raise PartError(
            f"{_name(assigner)} matched prior {prior} of image {image} of the batch with {found}, which is no object: "
            f"it has {_listed(present)}; -1 is background, -2 ignored (boxwright.testing.check_assigner finds more)"
        )


def check_loss(name: str, loss: Any, answer: Any) -> Tensor:
    """Return what a loss answered, which must be a tensor.

    Raises:
        PartError: names the loss and what it answered.
    """
    if not isinstance(answer, Tensor):
        raise PartError(f"the {name} loss {_name(loss)} must return a tensor, got {answer!r:.60}")
    return answer


def _name(part: Any) -> str:
    return getattr(part, "__name__", type(part).__name__)


def _form(tensor: Any) -> str:
    return f"{tuple(tensor.shape)} in {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__


def _listed(present: list[int]) -> str:
    if not present:
        return "no object"
    if present == [*range(len(present))]:
        return f"objects 0 to {present[-1]}" if len(present) > 1 else "object 0"
    return f"objects {', '.join(map(str, present[:10]))}"
