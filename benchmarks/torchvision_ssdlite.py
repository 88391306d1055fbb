"""boxwright's SSD with separable heads beside torchvision's SSDLite: same features, default boxes, images, schedule.

    python benchmarks/torchvision_ssdlite.py --data ../shared/data/bccd --epochs 12 --seeds 3 [--device cuda]

Both networks go through the same engine, loader and augmentation; torchvision's keeps its own head, matcher, hard
negatives, losses and postprocessing. Prints AP per seed, the ratio of step times (interleaved in one process) and the
peak memory that ten steps add to a process, and writes them to benchmarks/results/.
"""

from functools import partial
from typing import Any

from side_by_side import Adapter, Contest, Features, run
from torch import nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from boxwright.models.images import MEAN, STD
from boxwright.recipes import Recipe, build_detector


class TorchvisionDetector(Adapter):
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


CONTEST = Contest(
    "torchvision_ssdlite",
    "ssd-tiny",
    ["detector.head.separable=true"],
    {"boxwright": build_detector, "torchvision": TorchvisionDetector},
)

if __name__ == "__main__":
    run(CONTEST, __doc__.splitlines()[0])
