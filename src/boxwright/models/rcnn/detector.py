"""The two-stage detector, in torchvision's contract."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from boxwright.assigners import with_objects
from boxwright.criteria import TwoStageCriterion
from boxwright.models.detector import DenseDetector, PriorGenerator
from boxwright.models.postprocess import Postprocess
from boxwright.models.rcnn.proposals import ProposalFilter, as_priors
from boxwright.models.rcnn.regions import TwoLayerHead
from boxwright.structures import Predictions, Priors, Targets

__all__ = ["TwoStageDetector"]

Stage = Literal["rpn", "roi"]
NEVER = -1e4  # a logit whose probability is 0 in any precision


class TwoStageDetector(DenseDetector):
    """Faster R-CNN: a dense head of one class, "object", proposes boxes, a second head looks at each of them.

    Backbone and neck are shared; trained together, no gradient passes through the proposals' coordinates (approximate
    joint training). S. Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
    2015, arXiv:1506.01497.

    Args:
        backbone: images (B, 3, H, W) to features, finest first.
        neck: features to the levels that the heads see.
        head: levels to `Predictions` of one class.
        priors: levels' sizes to `Priors`.
        proposals: chooses among the first stage's boxes.
        regions: looks at each proposal.
        criterion: of both stages; holds their box coders.
        postprocess: the second stage's `Predictions` to `Detections`.
        size: how a list of images is resized, see `batch_images`.
        class_names: names of the C classes.
    """

    criterion: TwoStageCriterion
    regions: TwoLayerHead

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: nn.Module,
        priors: PriorGenerator,
        proposals: ProposalFilter,
        regions: TwoLayerHead,
        criterion: TwoStageCriterion,
        postprocess: Postprocess,
        *,
        size: int | tuple[int, int],
        class_names: Sequence[str],
    ) -> None:
        super().__init__(backbone, neck, head, priors, criterion, postprocess, size=size, class_names=class_names)
        self.proposals = proposals
        self.regions = regions
        self._stages: tuple[Stage, ...] = ("rpn", "roi")
        self._frozen: tuple[nn.Module, ...] = ()
        self._proposer: tuple[
            TwoStageDetector, ...
        ] = ()  # in a tuple, so that it does not become a part of this detector

    def losses(self, pixels: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return `rpn_class`, `rpn_box`, `roi_class` and `roi_box`, or those of the stage that is trained."""
        levels = self.neck(self._features(pixels))
        losses: dict[str, Tensor] = {}
        if not self._proposer:
            predictions, priors = self._dense(levels)
        if "rpn" in self._stages:
            losses |= self.criterion.first(predictions, priors, targets)
        if "roi" in self._stages:
            sizes = _extent(pixels)
            if self._proposer:
                boxes = self._proposer[0].propose(pixels, sizes, training=True)
            else:
                boxes = self._filtered(predictions, priors, sizes, training=True)
            regions, assignment = self.criterion.roi.pick(with_objects(as_priors(boxes), targets), targets)
            losses |= self.criterion.second(self._second(levels, regions), regions, targets, assignment)
        return losses

    @torch.no_grad()
    def propose(self, pixels: Tensor, sizes: Tensor | None = None, *, training: bool = False) -> Tensor:
        """Return the first stage's answer to a batch (B, 3, H, W): boxes (B, P, 4), padded with boxes without area."""
        levels = self.neck(self._features(pixels))
        return self._filtered(*self._dense(levels), _extent(pixels) if sizes is None else sizes, training=training)

    def predict(self, pixels: Tensor, sizes: Tensor | None = None) -> tuple[Predictions, Priors]:
        """Return what the second stage says about every proposal, undecoded, and the proposals.

        Args:
            pixels: (B, 3, H, W).
            sizes: (B, 2) heights and widths of the images inside the padding; None where there is none.
        """
        sizes = _extent(pixels) if sizes is None else sizes
        levels = self.neck(self._features(pixels))
        if self._proposer:
            boxes = self._proposer[0].propose(pixels, sizes)
        else:
            boxes = self._filtered(*self._dense(levels), sizes)
        priors = as_priors(boxes)
        predictions = self._second(levels, priors)
        padding = ~(boxes[..., 2:] > boxes[..., :2]).all(dim=-1, keepdim=True)
        return replace(predictions, logits=predictions.logits.masked_fill(padding, NEVER)), priors

    def train_only(self, stage: Stage, *, trunk: bool = True, proposer: "TwoStageDetector | None" = None) -> Self:
        """Prepare a step of alternating training, in place: everything else neither learns nor changes.

        Args:
            stage: "rpn" or "roi".
            trunk: whether backbone and neck learn as well.
            proposer: whose proposals the second stage sees, instead of this detector's own.
        """
        self._stages = (stage,)
        self._frozen = (self.regions if stage == "rpn" else self.head, *(() if trunk else (self.backbone, self.neck)))
        self._proposer = () if proposer is None else (proposer.eval().requires_grad_(False),)
        for module in self._frozen:
            module.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, except for what a step of alternating training leaves alone."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _filtered(self, predictions: Predictions, priors: Priors, sizes: Tensor, *, training: bool = False) -> Tensor:
        coder = self.criterion.rpn.coder
        return self.proposals(predictions.detach(), priors, coder, sizes, training=training).boxes

    def _second(self, levels: list[Tensor], priors: Priors) -> Predictions:
        """Read proposals from the levels that the backbone has too; coarser ones only propose."""
        predictions: Predictions = self.regions(levels[: len(self.regions.levels)], priors.boxes)
        return predictions


def _extent(pixels: Tensor) -> Tensor:
    """Heights and widths (B, 2) of a batch without padding."""
    count, _, height, width = pixels.shape
    return torch.cat([pixels.new_full((count, 1), float(side), dtype=torch.float32) for side in (height, width)], 1)
