"""Deterministic selection without synchronising: pairs packed into one integer, top-k and conflicts by lowest index."""

from typing import Final

import torch
from torch import Tensor

from boxwright.assigners.blocks import over_objects

__all__ = [
    "Favourites",
    "best_by_index",
    "claim",
    "falling",
    "keep_best",
    "match",
    "rising",
    "take",
    "top_k",
    "unpack_falling",
    "unpack_rising",
]

_LOW: Final = 2**31 - 1  # compiled code may hold indices in int32
_LAST: Final = _LOW - 1  # so that the key -1 of `falling`, less than any other, unpacks to the index -1
_GROUP: Final = 32


def rising(value: Tensor, index: Tensor) -> Tensor:
    """Pack a float >= 0 and an index < 2³¹ into int64: the minimum is the smallest value, on ties the lowest index."""
    return (value.to(torch.float32).view(torch.int32).to(torch.int64) << 32).bitwise_or_(index)


def unpack_rising(key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float32 value and the index that `rising` packed."""
    return (key >> 32).to(torch.int32).view(torch.float32), key & _LOW


def falling(value: Tensor, index: Tensor) -> Tensor:
    """Pack a float >= 0 and an index < 2³¹ - 1 into int64: the maximum is the largest value, then the lowest index."""
    return rising(value, _LAST - index)


def unpack_falling(key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float32 value and the index that `falling` packed."""
    value, index = unpack_rising(key)
    return value, _LAST - index


def best_by_index(value: Tensor, index: Tensor, k: int, *, largest: bool = True) -> tuple[Tensor, Tensor]:
    """Return the k best values (…, N) >= 0 in order and their indices (…, N), the lowest index first among equals."""
    pack, unpack = (falling, unpack_falling) if largest else (rising, unpack_rising)
    return unpack(pack(value, index).topk(k, largest=largest).values)


def top_k(value: Tensor, k: int, *, largest: bool = True) -> tuple[Tensor, Tensor]:
    """Return the k best of the last dimension in order, the lowest index first among equals.

    Only the best k groups of neighbours are looked into: each of the k best lies in one of them.

    Args:
        value: (…, N) float32, >= 0.
        k: how many; at most N are returned.
        largest: whether large is good.

    Returns:
        Values and int64 indices, (…, min(k, N)).
    """
    count = value.shape[-1]
    k = min(k, count)
    index = torch.arange(count, device=value.device)
    if count > 2 * k * _GROUP:
        even = count - count % _GROUP
        grouped = value[..., :even].unflatten(-1, (-1, _GROUP))
        best = grouped.amax(-1) if largest else grouped.neg().amax(-1).neg_()  # amin is several times slower
        groups = best_by_index(best, index[: best.shape[-1]], k, largest=largest)[1]
        inside = (groups.unsqueeze(-1) * _GROUP + index[:_GROUP]).flatten(-2)  # (…, k · group)
        rest = index[even:].expand(*value.shape[:-1], count - even)
        index = torch.cat([inside, rest], dim=-1)
        value = value.gather(-1, index)
    return best_by_index(value, index, k, largest=largest)


def match(index: Tensor, quality: Tensor, chosen: Tensor, priors: int) -> Tensor:
    """Give every prior to the object that chose it with the highest quality, the lowest object on ties.

    Args:
        index: (B, G, K) int64, the priors that each object considered.
        quality: (B, G, K) float, >= 0.
        chosen: (B, G, K) bool, which of them it wants.
        priors: L.

    Returns:
        (B, L) int64: an object or -1.
    """
    images, objects, _ = index.shape
    number = torch.arange(objects, device=index.device).unsqueeze(-1)
    key = torch.where(chosen, falling(quality, number), -1)
    table = key.new_full((images, priors), -1).scatter_reduce(1, index.flatten(1), key.flatten(1), "amax")
    return _LAST - (table & _LOW)


class Favourites:
    """The object with the largest value at every prior, the lowest on ties; blocks of objects come in rising order."""

    def __init__(self, priors: Tensor, start: float = 0.0) -> None:
        """Begin; of `priors` (B, L) only shape and device matter."""
        self.value = torch.full_like(priors, start, dtype=torch.float32)
        self._owner = torch.zeros_like(self.value)  # counted from 1; 0: no value above the start

    def see(self, values: Tensor, images: slice, objects: slice) -> None:
        """Compare the values of a block (b, g, L) with those before it."""
        most = over_objects(values)
        better = torch.gt(most, self.value[images], out=torch.empty_like(most))
        # numbers rise from block to block: the largest is that of the last object that was better than all before it
        self._owner[images].clamp_(min=better.mul_(_first(values, most, objects)))
        self.value[images].clamp_(min=most)

    @property
    def owner(self) -> Tensor:
        """(B, L) float, index of the object; 0 also where no value is above the start."""
        return (self._owner - 1).clamp_(min=0)


def _first(values: Tensor, most: Tensor, objects: slice) -> Tensor:
    """Lowest object, counted from 1, of a block (b, g, L) that reaches the largest value (b, L) of a prior."""
    number = torch.arange(objects.start + 1, objects.stop + 1, device=most.device, dtype=most.dtype).unsqueeze(-1)
    if len(number) == 1:
        return number
    tied = torch.eq(values, most.unsqueeze(1), out=torch.empty_like(values)).mul_(objects.stop - number)
    return over_objects(tied).neg().add_(objects.stop)


def take(per_prior: Tensor, index: Tensor) -> Tensor:
    """Look up what priors have, (L, D) for all images or (B, L, D), at (B, G, K) indices: (B, G, K, D)."""
    if per_prior.ndim == 2:  # coordinate by coordinate, as `clean_boxes` stores them
        planes = per_prior.t().index_select(1, index.flatten())
        return planes.view(len(planes), *index.shape).movedim(0, -1)
    flat = index.flatten(1).unsqueeze(-1).expand(-1, -1, per_prior.shape[-1])
    return per_prior.gather(1, flat).reshape(*index.shape, per_prior.shape[-1])


def claim(prior: Tensor, wanted: Tensor, priors: int) -> tuple[Tensor, Tensor]:
    """Let every object claim one prior: the last claimant of every prior or -1, and their number.

    Args:
        prior: (B, G) int64, the prior that each object claims.
        wanted: (B, G) bool, whether it does.
        priors: L.

    Returns:
        (B, L) int64 and (B, L) int64.
    """
    number = torch.arange(prior.shape[1], device=prior.device).expand_as(prior).where(wanted, -1)
    nobody = number.new_full((len(prior), priors), -1)
    count = torch.zeros_like(nobody).scatter_add(1, prior, wanted.to(torch.int64))
    return nobody.scatter_reduce(1, prior, number, "amax"), count


def keep_best(owner: Tensor, value: Tensor, k: int) -> Tensor:
    """Tell which entries are among the k largest of their owner, the lowest index first among equals.

    Args:
        owner: (B, L) int64.
        value: (B, L) float.
        k: how many per owner.

    Returns:
        (B, L) bool.
    """
    by_value = value.sort(dim=1, descending=True, stable=True).indices
    sorted_owner, by_owner = owner.gather(1, by_value).sort(dim=1, stable=True)
    place = torch.arange(owner.shape[1], device=owner.device)
    rank = place - torch.searchsorted(sorted_owner, sorted_owner)
    return torch.zeros_like(owner, dtype=torch.bool).scatter(1, by_value.gather(1, by_owner), rank < k)
