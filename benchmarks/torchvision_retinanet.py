"""boxwright's RetinaNet beside torchvision's own: same backbone, pyramid, head, anchors, images, batches, schedule.

    python benchmarks/torchvision_retinanet.py --data ../shared/data/bccd --epochs 12 --seeds 3

Both networks go through the same engine, loader and augmentation; torchvision's keeps its own matcher, losses (focal
and L1), loss normalisation and postprocessing. Prints AP per seed, the ratio of step times (interleaved in one process)
and the peak memory that ten steps add to a process, and writes them to benchmarks/results/.
"""

from typing import Any

from side_by_side import Adapter, Contest, Features, run
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from boxwright.models.images import MEAN, STD
from boxwright.models.layers import group_norm
from boxwright.recipes import Recipe, build_detector


class TorchvisionDetector(Adapter):
    """torchvision's RetinaNet behind our detector's interface."""

    first_label = 0  # it has no class for background

    def __init__(self, recipe: Recipe, class_names: list[str], **options: Any) -> None:
        super().__init__()
        ours = build_detector(recipe, class_names, **options)
        sizes = tuple((int(4 * s), int(4 * s * 2**0.5)) for s in ours.priors.strides)
        anchors = AnchorGenerator(sizes, ((1.0,),) * len(sizes))
        width = ours.neck.channels[0]
        head = RetinaNetHead(width, anchors.num_anchors_per_location()[0], len(class_names), norm_layer=group_norm)
        inference = recipe.detector.inference
        self.class_names = class_names
        self.model = RetinaNet(
            Features(ours.backbone, ours.neck, width),
            len(class_names),
            anchor_generator=anchors,
            head=head,
            image_mean=MEAN,
            image_std=STD,
            score_thresh=inference.score_threshold,
            nms_thresh=inference.iou_threshold,
            detections_per_img=inference.max_detections,
            topk_candidates=inference.pre_nms,
            # images arrive letterboxed: no resizing, neither in training nor in evaluation
            min_size=recipe.data.size,
            max_size=recipe.data.size,
            _skip_resize=True,
        )


# torchvision's head has four convolutions per tower, so ours gets as many.
CONTEST = Contest(
    "torchvision_retinanet",
    "retinanet-tiny",
    ["detector.head.convs=4"],
    {"boxwright": build_detector, "torchvision": TorchvisionDetector},
)

if __name__ == "__main__":
    run(CONTEST, __doc__.splitlines()[0])
