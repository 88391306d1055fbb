"""Only what can overlap: pairs of an object and a group of neighbouring priors whose predicted boxes come near it."""

from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor
from torch.nn import functional

from boxwright.assigners.select import best_by_index

__all__ = ["SHARE", "Groups", "Pairs"]

SHARE: Final = 4  # of so many groups at most about one is near to an object
_GROUP: Final = 32


@dataclass(frozen=True, eq=False, slots=True)
class Groups:
    """The predicted boxes of B images in N groups of neighbours each, the last one filled up with boxes without area.

    How many groups are near to an object is known only to who reads it: this is for a host that need not wait, the CPU.

    Attributes:
        planes: (4, B · N, _GROUP) coordinates.
        hull: (4, B, 1, N) smallest box around those of a group.
        priors: L.
    """

    planes: Tensor
    hull: Tensor
    priors: int

    @classmethod
    def of(cls, predicted: Tensor) -> Self:
        """Group boxes (B, L, 4)."""
        priors = predicted.shape[1]
        planes = functional.pad(predicted.movedim(-1, 0), (0, -priors % _GROUP))
        planes = planes.unflatten(-1, (-1, _GROUP))  # (4, B, N, _GROUP)
        low = planes[:2].neg().amax(-1).neg_()  # amin is several times slower
        hull = torch.cat([low, planes[2:].amax(-1)]).unsqueeze(2)
        return cls(planes.flatten(1, 2), hull, priors)

    def near(self, boxes: Tensor, images: slice) -> "Pairs":
        """Find the groups that objects (b, g, 4) of some images may overlap."""
        x1, y1, x2, y2 = boxes.unsqueeze(-1).unbind(2)
        left, top, right, bottom = self.hull[:, images]
        meets = (right > x1).logical_and_(left < x2).logical_and_(bottom > y1).logical_and_(top < y2)  # (b, g, N)
        place = torch.from_numpy(meets.flatten().numpy().nonzero()[0])
        owner, group = place // meets.shape[2], place % meets.shape[2]
        image = owner // meets.shape[1] + images.start
        predicted = self.planes.index_select(1, image * meets.shape[2] + group).movedim(0, -1)
        return Pairs(owner, image, group, predicted, meets.shape, self.priors)


@dataclass(frozen=True, eq=False, slots=True)
class Pairs:
    """P pairs of an object and a group of priors.

    Attributes:
        owner: (P,) which of the b · g objects.
        image: (P,) the object's image.
        group: (P,) which of the image's N groups.
        predicted: (P, _GROUP, 4) boxes.
        shape: (b, g, N).
        count: L.
    """

    owner: Tensor
    image: Tensor
    group: Tensor
    predicted: Tensor
    shape: torch.Size
    count: int

    def of_object(self, per_object: Tensor) -> Tensor:
        """Look up what objects have, (b, g, …): (P, 1, …)."""
        return per_object.flatten(0, 1).index_select(0, self.owner).unsqueeze(1)

    def priors(self) -> Tensor:
        """Index of every prior in its image: (P, _GROUP)."""
        return _members(self.group).clamp_(max=self.count - 1)

    def top_k(self, value: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `select.top_k` of every object over all L priors, whose value is that of a pair (P, _GROUP), or 0."""
        images, objects, groups = self.shape
        where = self.owner * groups + self.group
        best = value.new_zeros(images * objects * groups).scatter_(0, where, value.amax(-1)).view(-1, groups)
        chosen = best_by_index(best, torch.arange(groups, device=best.device), min(k, groups))[1]  # (b · g, k)
        row = where.new_full((best.numel(),), len(value)).scatter_(
            0, where, torch.arange(len(value), device=where.device)
        )
        row = row.view(-1, groups).gather(1, chosen)
        members = functional.pad(value, (0, 0, 0, 1)).index_select(0, row.flatten())  # the last row: no pair
        best, index = best_by_index(members.view(len(chosen), -1), _members(chosen).flatten(1), min(k, self.count))
        return best.view(images, objects, -1), index.clamp_(max=self.count - 1).view(images, objects, -1)


def _members(group: Tensor) -> Tensor:
    """Indices of the priors of groups (…): (…, _GROUP)."""
    return group.unsqueeze(-1) * _GROUP + torch.arange(_GROUP, device=group.device)
