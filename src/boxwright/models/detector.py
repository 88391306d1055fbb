"""The dense detector, in torchvision's contract."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from boxwright.counts import counted
from boxwright.criteria import DenseCriterion, GridCriterion, PhasedCriterion, TwoStageCriterion
from boxwright.models.fuse import fold_batch_norms
from boxwright.models.guide import Guide
from boxwright.models.images import MEAN, STD, batch_images, to_float
from boxwright.models.postprocess import Postprocess
from boxwright.structures import Detections, Predictions, Priors, Targets

__all__ = ["DenseDetector"]


class PriorGenerator(Protocol):
    """Lays priors over feature maps."""

    @property
    def per_cell(self) -> int:
        """Number of priors in each cell."""

    def __call__(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> Priors:
        """Return the priors of feature maps with the given (height, width), finest first."""


class DenseDetector(nn.Module):
    """Backbone, neck and head that predict for every prior at once; its criterion trains it.

    In training `losses = detector(images, targets)` returns named scalar losses; in evaluation `detector(images)`
    returns `Detections`, which read like torchvision's list of dictionaries.

    Args:
        backbone: images (B, 3, H, W) to features, finest first.
        neck: features to the levels that the head sees.
        head: levels to `Predictions`.
        priors: levels' sizes to `Priors`.
        criterion: `Predictions`, `Priors` and `Targets` to named losses; holds the box coder.
        postprocess: `Predictions` and `Priors` to `Detections`.
        size: how a list of images is resized, see `batch_images`.
        class_names: names of the C classes.
        guide: chooses the assignment in training; nothing else sees it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: nn.Module,
        priors: PriorGenerator,
        criterion: DenseCriterion | PhasedCriterion | GridCriterion | TwoStageCriterion,
        postprocess: Postprocess,
        *,
        size: int | tuple[int, int],
        class_names: Sequence[str],
        guide: Guide | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.priors = priors
        self.criterion = criterion
        self.postprocess = postprocess
        self.size = size
        self.class_names = tuple(class_names)
        self.guide = guide
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        targets: Targets | Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | Detections:
        """Return losses in training, detections in evaluation.

        Args:
            images: a list of (3, h, w), each of its own size, which are resized and padded as the recipe says; or a
                batch (B, 3, H, W), which is used as it is. uint8 0..255 or float 0..1, RGB.
            targets: boxes xyxy in pixels of the images given: torchvision's list of dictionaries with `boxes` (n, 4)
                and `labels` (n,) from 0 (optional `iscrowd`), or `Targets`. Needed in training.

        Raises:
            ValueError: targets are missing in training, or do not fit the images.
        """
        if isinstance(images, Tensor):
            pixels, scales = images, None
            sizes = torch.tensor([pixels.shape[-2:]], device=pixels.device).expand(len(pixels), 2)
        else:
            pixels, scales, sizes = batch_images(images, self.size)
        if self.training:
            return self.losses(pixels, self._targets(targets, pixels, scales))
        predictions, priors = self.predict(pixels, sizes)
        detections = self.postprocess(predictions, priors, self.criterion.coder, sizes)
        return detections if scales is None else replace(detections, boxes=detections.boxes / scales.unsqueeze(1))

    def losses(self, pixels: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the losses of a batch (B, 3, H, W)."""
        losses: dict[str, Tensor] = self.criterion(*self.predict(pixels), targets)
        return losses

    def predict(self, pixels: Tensor, sizes: Tensor | None = None) -> tuple[Predictions, Priors]:
        """Return what the head says about a batch (B, 3, H, W), undecoded, and where.

        `sizes` (B, 2), heights and widths inside the padding, matter only to heads that look at boxes.
        """
        features = self._features(pixels)
        levels = self.neck(features)
        predictions, priors = self._dense(levels)
        if self.guide is not None and self.training:
            guide = self.guide(features, levels)
            extras = {"guide_logits": guide.logits, "guide_params": guide.params}
            predictions = replace(predictions, extras=predictions.extras | extras)
        return predictions, priors

    def fuse(self) -> Self:
        """Make this detector as small and fast as it gets for inference, in place: it cannot be trained any more.

        Batch norms are folded into the convolutions before them, and the guide goes.

        Raises:
            ValueError: the detector is in training mode.
            RuntimeError: the network uses a convolution's output in a way that cannot be folded.
        """
        self.guide = None
        example = torch.rand(1, 3, 64, 64, device=self.mean.device)
        with torch.no_grad():
            before = self.predict(example)[0].logits
            fold_batch_norms(self, lambda: self.predict(example))
            after = self.predict(example)[0].logits
        if not torch.allclose(before, after, rtol=1e-2, atol=1e-2):
            raise RuntimeError(
                "folding batch norms changed what the network predicts; build or load it again, and leave fuse() out"
            )
        return self

    def _features(self, pixels: Tensor) -> list[Tensor]:
        """What the backbone sees; the float copies of the images do not outlive this call."""
        features: list[Tensor] = self.backbone((to_float(pixels) - self.mean) / self.std)
        return features

    def _dense(self, levels: list[Tensor]) -> tuple[Predictions, Priors]:
        """What the dense head says about the neck's levels, and the priors on them."""
        priors = self.priors([(level.shape[-2], level.shape[-1]) for level in levels], levels[0].device)
        predictions: Predictions = self.head(levels)
        return predictions, priors

    def _targets(
        self, targets: Targets | Sequence[Mapping[str, Tensor]] | None, pixels: Tensor, scales: Tensor | None
    ) -> Targets:
        if targets is None:
            raise ValueError("in training the detector needs targets: detector(images, targets)")
        if not isinstance(targets, Targets):
            self._check_labels(targets)
            targets = Targets.from_list(targets).to(pixels.device)
        if len(targets) != len(pixels):
            raise ValueError(f"got {counted(len(pixels), 'image')} but targets of {len(targets)}")
        if scales is None:
            return targets
        return replace(targets, boxes=targets.boxes * scales.unsqueeze(1))

    def _check_labels(self, targets: Sequence[Mapping[str, Tensor]]) -> None:
        """Refuse labels without a class, which a ranking loss would not notice."""
        classes = len(self.class_names)
        for index, target in enumerate(targets):
            if (target["labels"] >= classes).any():
                raise ValueError(
                    f"targets[{index}]['labels'] holds class {int(target['labels'].max())}, but the detector has "
                    f"{classes}, counted from 0 (torchvision's own detectors count from 1)"
                )
