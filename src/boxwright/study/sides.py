"""The sides of the objects as a network with distributional boxes sees them: how wide and how many-peaked."""

from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor

from boxwright.boxes import FineGrainedCoder, IntegralCoder, box_iou
from boxwright.structures import Predictions, Priors
from boxwright.study.scenes import Batch

__all__ = ["SIDES", "DistributionCoder", "Peaks", "Sides", "excess_spread", "peaks"]

SIDES: Final = ("left", "top", "right", "bottom")
_OUTWARDS: Final = torch.tensor([-1.0, -1.0, 1.0, 1.0])
DistributionCoder = IntegralCoder | FineGrainedCoder  # they read the sides of a box from distributions
_CERTAIN: Final = 1e4  # a logit beside which all others vanish


class Peaks(NamedTuple):
    """The two highest peaks of distributions (…, K).

    Attributes:
        first: (…) where the highest lies.
        second: (…) where the next lies; the first again where there is no other.
        prominence: (…) by how much probability the second rises above the valley between the two.
    """

    first: Tensor
    second: Tensor
    prominence: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Sides:
    """What a network says about N objects, each as the prior sees it that predicts it best.

    That is the prior with the largest product of the object's class score and the IoU of predicted box and object.

    Attributes:
        probability: (N, 4, K) of the bins of the left, top, right and bottom side.
        place: (N, 4, K) where the bins lie, x or y in input pixels; those outside the image on its border.
        boxes: (N, 4) predicted boxes, xyxy in input pixels.
        score: (N,) of the object's class.
        iou: (N,) of predicted box and object.
    """

    probability: Tensor
    place: Tensor
    boxes: Tensor
    score: Tensor
    iou: Tensor

    @classmethod
    def empty(cls, objects: int, coder: DistributionCoder) -> Self:
        """Return room for N objects."""
        shape = (objects, 4, coder.reg_max + 1)
        return cls(torch.zeros(shape), torch.zeros(shape), *(torch.zeros(objects, *s) for s in ((4,), (), ())))

    def add(self, batch: Batch, predictions: Predictions, coder: DistributionCoder) -> None:
        """Fill in the objects of a batch from predictions with decoded boxes."""
        assert predictions.boxes is not None
        scores = predictions.scores()
        for image, rows in enumerate(batch.rows):
            number = (rows >= 0).nonzero()[:, 0]
            if not len(number):
                continue
            iou = box_iou(batch.targets.boxes[image, number], predictions.boxes[image])  # (n, L)
            score = scores[image][:, batch.targets.labels[image, number]].T
            best = (iou * score).argmax(1)
            prior = Priors(batch.priors.boxes[best], batch.priors.centers[best], batch.priors.strides[best])
            own = torch.arange(len(best))
            logits = predictions.params[image, best].float().unflatten(-1, (4, -1))
            height, width = batch.frames[image].size
            border = torch.tensor([[width], [height]] * 2)
            place = _places(prior, coder).clamp(min=0).minimum(border)
            found = (logits.softmax(-1), place, predictions.boxes[image, best])
            for column, values in zip(
                (self.probability, self.place, self.boxes, self.score, self.iou),
                (*found, score[own, best], iou[own, best]),
                strict=True,
            ):
                column[rows[number]] = values

    def outwards(self) -> Tensor:
        """Where the bins lie, (N, 4, K) rising from the inside of the box to its outside."""
        return self.place * _OUTWARDS.unsqueeze(-1)


def _places(priors: Priors, coder: DistributionCoder) -> Tensor:
    """Where each side lies if a bin is certain: (n, 4, K) in pixels."""
    certain = _CERTAIN * torch.eye(coder.reg_max + 1)
    return torch.stack([coder.decode(priors, bin.repeat(4).expand(len(priors), -1)) for bin in certain], dim=-1)


def excess_spread(probability: Tensor, value: Tensor) -> Tensor:
    """Standard deviation beyond what a mean between two bins needs: (…).

    A side that lies between two bins has to be spread over both, with a variance of (m - a)(b - m) for the mean m and
    its neighbours a and b; that much says nothing about its certainty.

    Args:
        probability: (…, K).
        value: (…, K) of the bins, rising.

    >>> excess_spread(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 1.0, 2.0]))
    tensor(0.)
    >>> excess_spread(torch.tensor([0.5, 0.0, 0.5]), torch.tensor([0.0, 1.0, 2.0]))
    tensor(1.)
    """
    mean = (probability * value).sum(-1, keepdim=True)
    variance = (probability * (value - mean).square()).sum(-1)
    right = torch.searchsorted(value.contiguous(), mean.contiguous()).clamp(1, value.shape[-1] - 1)
    below, above = value.gather(-1, right - 1), value.gather(-1, right)
    needed = ((mean - below) * (above - mean)).clamp(min=0).squeeze(-1)
    return (variance - needed).clamp(min=0).sqrt()


def peaks(probability: Tensor, value: Tensor) -> Peaks:
    """Find the two highest peaks of distributions; a peak lies at the mean of its bin and the two beside it.

    Args:
        probability: (…, K).
        value: (…, K) of the bins, or (K,).

    >>> peaks(torch.tensor([0.0, 0.6, 0.0, 0.0, 0.4, 0.0]), torch.arange(6.0))
    Peaks(first=tensor(1.), second=tensor(4.), prominence=tensor(0.4000))
    """
    number = torch.arange(probability.shape[-1]).expand_as(probability)
    main = probability.argmax(-1, keepdim=True)
    after = probability.masked_fill(number < main, torch.inf).cummin(-1).values
    before = probability.masked_fill(number > main, torch.inf).flip(-1).cummin(-1).values.flip(-1)
    valley = torch.where(number >= main, after, before)  # the least between the highest bin and each
    prominence, other = (probability - valley).max(-1, keepdim=True)
    other = torch.where(prominence > 0, other, main)
    first, second = (_around(probability, value, bin) for bin in (main, other))
    return Peaks(first, second, prominence.squeeze(-1))


def _around(probability: Tensor, value: Tensor, bin: Tensor) -> Tensor:
    """Mean of three bins around given ones (…, 1): (…)."""
    index = torch.cat([(bin + step).clamp(0, probability.shape[-1] - 1) for step in (-1, 0, 1)], dim=-1)
    known = (bin + torch.tensor([-1, 0, 1])) == index
    weight = probability.gather(-1, index) * known
    return (weight * value.expand_as(probability).gather(-1, index)).sum(-1) / weight.sum(-1)
