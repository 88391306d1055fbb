"""boxwright's SSD with separable heads beside torchvision's SSDLite: same features, default boxes, images, schedule.

    python benchmarks/torchvision_ssdlite.py --data ../shared/data/bccd --epochs 12 --seeds 3 [--device cuda]

Both networks go through the same engine, loader and augmentation; torchvision's keeps its own head, matcher, hard
negatives, losses and postprocessing. Prints AP per seed, the ratio of step times (interleaved in one process) and the
peak memory that ten steps add to a process, and writes them to benchmarks/results/.
"""

from functools import partial
from typing import Any

import torch
from side_by_side import Contest, Features, padded, run
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from boxwright.models.images import MEAN, STD, to_float
from boxwright.recipes import Recipe, build_detector
from boxwright.structures import Detections, Targets


class TorchvisionDetector(nn.Module):
    """torchvision's SSDLite behind our detector's interface."""

    def __init__(self, recipe: Recipe, class_names: list[str], **options: Any) -> None:
        super().__init__()
        ours = build_detector(recipe, class_names, **options)
        priors, side, inference = recipe.detector.priors, recipe.data.size, recipe.detector.inference
        # our `min` of each level and of one more are torchvision's scales; both add the square between two of them
        scales = [size / side for size in (*priors.min_sizes, priors.max_sizes[-1])]
        boxes = DefaultBoxGenerator(
            [[int(ratio) for ratio in ratios] for ratios in priors.ratios],
            scales=scales,
            steps=list(priors.steps),
            clip=False,
        )
        channels = ours.neck.channels
        head = SSDLiteHead(
            channels, boxes.num_anchors_per_location(), len(class_names) + 1, partial(nn.BatchNorm2d, eps=1e-5)
        )
        self.class_names = class_names
        self.model = SSD(
            Features(ours.backbone, ours.neck, channels),
            boxes,
            (side, side),
            len(class_names) + 1,
            image_mean=MEAN,
            image_std=STD,
            head=head,
            score_thresh=inference.score_threshold,
            nms_thresh=inference.iou_threshold,
            detections_per_img=inference.max_detections,
            topk_candidates=inference.pre_nms,
            _skip_resize=True,  # images arrive letterboxed
        )

    def forward(self, images: Tensor, targets: Targets | None = None) -> dict[str, Tensor] | Detections:
        pixels = list(to_float(images))
        if self.training:  # its class 0 is background
            lists = targets.to_list()
            return self.model(pixels, [{"boxes": one["boxes"], "labels": one["labels"] + 1} for one in lists])
        with torch.autocast(images.device.type, enabled=False):  # it would decode its boxes in half precision
            return padded(self.model(pixels), first_label=1)


CONTEST = Contest(
    "torchvision_ssdlite",
    "ssd-tiny",
    ["detector.head.separable=true"],
    {"boxwright": build_detector, "torchvision": TorchvisionDetector},
)

if __name__ == "__main__":
    run(CONTEST, __doc__.splitlines()[0])
