"""From the predictions of a region proposal network to proposals."""

from dataclasses import dataclass

import torch
from torch import Tensor

from boxwright.boxes.nms import multiclass_nms
from boxwright.boxes.suppress import suppress
from boxwright.criteria.dense import BoxCoder
from boxwright.models.postprocess import Postprocess
from boxwright.structures import Detections, Predictions, Priors

__all__ = ["ProposalFilter", "as_priors"]


@dataclass(frozen=True)
class ProposalFilter:
    """Keep the best anchors of each level, decode and clip them, drop small ones, suppress duplicates within a level.

    S. Ren et al. 2015, arXiv:1506.01497, section 3.3; levels as in T.-Y. Lin et al. 2017, arXiv:1612.03144.

    Attributes:
        train_pre_nms: anchors per image and level that enter suppression in training.
        train_post_nms: most proposals per image in training.
        pre_nms: the same at inference.
        post_nms: the same at inference.
        iou_threshold: a proposal that overlaps a better one of its level by more is a duplicate.
        min_size: shortest side of a proposal, in pixels of the network's input.
    """

    train_pre_nms: int = 2000
    train_post_nms: int = 2000
    pre_nms: int = 1000
    post_nms: int = 1000
    iou_threshold: float = 0.7
    min_size: float = 0.0

    @torch.no_grad()
    def __call__(
        self, predictions: Predictions, priors: Priors, coder: BoxCoder, sizes: Tensor, *, training: bool = False
    ) -> Detections:
        """Return proposals by falling score, padded with boxes without area; no gradient passes.

        Args:
            predictions: of one class, "object".
            priors: on grids.
            coder: decodes the boxes.
            sizes: (B, 2) heights and widths that boxes are clipped to, in pixels.
            training: which counts apply.
        """
        before, after = (self.train_pre_nms, self.train_post_nms) if training else (self.pre_nms, self.post_nms)
        best = Postprocess(0.0, before, self.iou_threshold, after)
        boxes, scores, _ = best.candidates(predictions, priors, coder, sizes.unsqueeze(1))
        shortest = (boxes[..., 2:] - boxes[..., :2]).amin(dim=-1)
        scores = scores * ((shortest >= self.min_size) & (shortest > 0))
        kept = [
            scores.new_full((min(before, level.size),), n, dtype=torch.int64) for n, level in enumerate(priors.levels)
        ]
        levels = torch.cat(kept).expand(scores.shape)
        if torch.compiler.is_compiling():
            return Detections(*suppress(boxes, scores, levels, len(priors.levels), self.iou_threshold, after))
        return multiclass_nms(boxes, scores, levels, iou_threshold=self.iou_threshold, max_detections=after)


def as_priors(boxes: Tensor) -> Priors:
    """Priors of boxes (B, P, 4) that lie on no grid."""
    return Priors(boxes, (boxes[..., :2] + boxes[..., 2:]) / 2, boxes.new_ones(boxes.shape[1]))
