"""From predictions to detections."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from boxwright.boxes import clip_boxes
from boxwright.boxes.nms import multiclass_nms
from boxwright.criteria.dense import BoxCoder
from boxwright.structures import Detections, Predictions, Priors

__all__ = ["Postprocess"]


@dataclass(frozen=True)
class Postprocess:
    """Keep the best class scores of each level, decode their boxes, clip them to the image, suppress duplicates.

    Args:
        score_threshold: lowest class score of a detection, before a quality branch multiplies it (Tian et al. 2019).
        pre_nms: class scores kept per level and image before suppression.
        iou_threshold: a box that overlaps a better one of its class by more is a duplicate.
        max_detections: K, most detections per image.
    """

    score_threshold: float = 0.05
    pre_nms: int = 1000
    iou_threshold: float = 0.5
    max_detections: int = 100

    @torch.no_grad()
    def __call__(self, predictions: Predictions, priors: Priors, coder: BoxCoder, sizes: Tensor) -> Detections:
        """Return the detections of B images; `sizes` (B, 2) are their heights and widths in pixels."""
        boxes, scores, labels = self.candidates(predictions, priors, coder, sizes.unsqueeze(1))
        return multiclass_nms(
            boxes, scores, labels, iou_threshold=self.iou_threshold, max_detections=self.max_detections
        )

    def candidates(
        self, predictions: Predictions, priors: Priors, coder: BoxCoder, limits: Tensor | tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what suppression chooses from: boxes (B, S, 4), scores (B, S), labels (B, S); score 0 takes no part.

        `limits` are heights and widths that boxes are clipped to, (height, width) or (B, 1, 2).
        """
        classes = predictions.logits.shape[-1]
        scores = self._scores(predictions)
        picked = self._best(scores, priors)
        scores = scores.flatten(1).gather(1, picked)
        rows, labels = picked // classes, picked % classes
        params = predictions.params.gather(1, rows.unsqueeze(-1).expand(-1, -1, predictions.params.shape[-1]))
        boxes = coder.decode(priors.take(rows), params.float())
        if boxes.ndim == 4:  # (B, S, C, 4): every class has a box of its own
            boxes = boxes.gather(2, labels[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        corner, opposite = clip_boxes(boxes, limits).split(2, dim=-1)
        # sides that are predicted one by one may cross; libraries disagree about the overlaps of such boxes
        boxes = torch.cat([corner, torch.maximum(corner, opposite)], dim=-1)
        return boxes, scores, labels

    def _scores(self, predictions: Predictions) -> Tensor:
        """Scores (B, L, C), 0 where the class alone is below the threshold, whatever a quality branch makes of it."""
        scores = certain = predictions.scores()
        if "quality" in predictions.extras:
            extras = {name: extra for name, extra in predictions.extras.items() if name != "quality"}
            certain = replace(predictions, extras=extras).scores()
        return scores * (certain > self.score_threshold)

    def _best(self, scores: Tensor, priors: Priors) -> Tensor:
        """Flat indices (B, K') into (L · C) of the best scores of every level."""
        start, picked = 0, []
        sizes = [level.size for level in priors.levels] or [len(priors)]  # proposals have no levels
        for level in torch.split(scores, sizes, dim=1):
            flat = level.flatten(1)
            top = flat.topk(min(self.pre_nms, flat.shape[1]), dim=1).indices
            picked.append(top + start)
            start += flat.shape[1]
        return torch.cat(picked, dim=1)
