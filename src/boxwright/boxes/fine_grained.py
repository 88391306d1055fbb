"""D-FINE's boxes: each side of a reference box moves by the mean of a distribution over bins that lie denser near 0."""

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.boxes.bins import weighting_function
from boxwright.boxes.formats import at_least_float32, xyxy_to_cxcywh
from boxwright.structures import Priors

__all__ = ["FineGrainedCoder"]

_TINY = 1e-6  # pixels: the narrowest side that a division sees


@dataclass(frozen=True, slots=True)
class FineGrainedCoder:
    """Sides at `center ∓ (scale / 2 + d) size / scale` of the prior, d the mean of a distribution over uneven bins.

    The parameters are logits, the `reg_max + 1` bins of the left side first, then top, right, bottom; d = 0 is the
    prior itself. Peng et al. 2024, arXiv 2410.13842, where the priors are an earlier layer's boxes; anchors do as well.

    Attributes:
        reg_max: index of the last bin, even.
        up: how far a side moves in the bins, as a share of the prior's size (the two end bins: twice as far).
        scale: divides the prior's size to give the unit of d.
    """

    reg_max: int = 32
    up: float = 0.5
    scale: float = 4.0

    def encode(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Return the offsets (…, L, 4) that the distributions should mean; those out of range are not clipped."""
        center, size = xyxy_to_cxcywh(at_least_float32(priors.boxes)).split(2, dim=-1)
        low, high = at_least_float32(boxes).split(2, dim=-1)
        unit = size.clamp(min=_TINY) / self.scale
        return torch.cat([center - low, high - center], dim=-1) / torch.cat([unit, unit], dim=-1) - self.scale / 2

    def decode(self, priors: Priors, params: Tensor) -> Tensor:
        """Return the boxes (…, L, 4) that the logits `params` (…, L, 4·(reg_max + 1)) mean."""
        return self.move(priors.boxes, self.offsets(params))

    def offsets(self, params: Tensor) -> Tensor:
        """Return the expected offsets (…, 4) of the logits (…, 4·(reg_max + 1))."""
        probability = at_least_float32(params).unflatten(-1, (4, self.reg_max + 1)).softmax(dim=-1)
        values = weighting_function(self.reg_max, self.up, self.scale, dtype=probability.dtype, device=params.device)
        # no product of matrices, see `IntegralCoder`
        return torch.sum(probability * values, dim=-1)

    def move(self, boxes: Tensor, offsets: Tensor) -> Tensor:
        """Return the boxes (…, 4) with every side moved by its offset (…, 4)."""
        center, size = xyxy_to_cxcywh(at_least_float32(boxes)).split(2, dim=-1)
        before, after = ((self.scale / 2 + offset) * size / self.scale for offset in offsets.split(2, dim=-1))
        return torch.cat([center - before, center + after], dim=-1)
