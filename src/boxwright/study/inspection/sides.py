"""The sides of the objects as a network with distributional boxes sees them: how wide and how many-peaked."""

from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import torch
from torch import Tensor

from boxwright.boxes import FineGrainedCoder, IntegralCoder, box_iou
from boxwright.structures import Predictions, Priors
from boxwright.study.inspection.inputs import InputBatch

__all__ = ["FOUND", "SIDES", "DistributionCoder", "Peaks", "Sides", "excess_spread", "peaks"]

FOUND: Final = 0.5  # IoU from which a predicted box is the object's
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
    `seen` and `rival` are about all priors whose boxes are the object's, with an IoU of at least `FOUND`.

    Attributes:
        probability: (N, 4, K) of the bins of the left, top, right and bottom side.
        place: (N, 4, K) where the bins lie, x or y in input pixels; those outside the image on its border.
        boxes: (N, 4) predicted boxes, xyxy in input pixels.
        score: (N,) of the object's class.
        iou: (N,) of predicted box and object.
        seen: (N,) highest score of the object's class.
        rival: (N,) highest score of another class.
        rival_label: (N,) int64, that class; of no meaning where `rival` is 0.
    """

    probability: Tensor
    place: Tensor
    boxes: Tensor
    score: Tensor
    iou: Tensor
    seen: Tensor
    rival: Tensor
    rival_label: Tensor

    @classmethod
    def empty(cls, objects: int, coder: DistributionCoder) -> Self:
        """Return zeros for N objects, which `add` fills in."""
        bins = torch.zeros(objects, 4, coder.reg_max + 1)
        score, iou, seen, rival = torch.zeros(4, objects)
        label = torch.zeros(objects, dtype=torch.int64)
        return cls(bins, bins.clone(), torch.zeros(objects, 4), score, iou, seen, rival, label)

    def add(self, batch: InputBatch, predictions: Predictions, coder: DistributionCoder) -> None:
        """Fill in the objects of a batch from predictions with decoded boxes."""
        assert predictions.boxes is not None
        scores = predictions.scores()
        for image, rows in enumerate(batch.rows):
            number = (rows >= 0).nonzero()[:, 0]
            if not len(number):
                continue
            iou = box_iou(batch.targets.boxes[image, number], predictions.boxes[image])  # (n, L)
            label = batch.targets.labels[image, number]
            score = scores[image][:, label].T
            rival, rival_label = _rivals(scores[image], label, iou >= FOUND)
            best = (iou * score).argmax(1)
            prior = Priors(batch.priors.boxes[best], batch.priors.centers[best], batch.priors.strides[best])
            own = torch.arange(len(best))
            logits = predictions.params[image, best].float().unflatten(-1, (4, -1))
            height, width = batch.frames[image].size
            border = torch.tensor([[width], [height]] * 2)
            place = _places(prior, coder).clamp(min=0).minimum(border)
            found = {
                "probability": logits.softmax(-1),
                "place": place,
                "boxes": predictions.boxes[image, best],
                "score": score[own, best],
                "iou": iou[own, best],
                "seen": (score * (iou >= FOUND)).amax(1),
                "rival": rival,
                "rival_label": rival_label,
            }
            for name, values in found.items():
                getattr(self, name)[rows[number]] = values

    def outwards(self) -> Tensor:
        """Where the bins lie, (N, 4, K) rising from the inside of the box to its outside."""
        return self.place * _OUTWARDS.unsqueeze(-1)


def _rivals(scores: Tensor, label: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Highest score (n,) of another class than the objects' (n,) among priors that are theirs (n, L), and which."""
    if scores.shape[-1] == 1:
        return torch.zeros(len(label)), torch.zeros_like(label)
    value, index = scores.topk(2, dim=-1)  # (L, 2)
    first = index[:, 0] != label.unsqueeze(1)  # (n, L): the best class of the prior is another one
    rival = torch.where(first, value[:, 0], value[:, 1]) * own
    best = rival.argmax(1, keepdim=True)
    return rival.gather(1, best).squeeze(1), torch.where(first, index[:, 0], index[:, 1]).gather(1, best).squeeze(1)


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
