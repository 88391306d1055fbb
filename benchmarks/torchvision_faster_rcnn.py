"""boxwright's Faster R-CNN beside torchvision's own: same features, anchors, counts, layers, images and schedule.

    python benchmarks/torchvision_faster_rcnn.py --data ../shared/data/bccd --epochs 12 --seeds 3 [--device cuda]

Both networks go through the same engine, loader and augmentation; torchvision's keeps its own matchers, samplers,
RoIAlign, losses and postprocessing. Prints AP per seed, the ratio of step times (interleaved in one process) and the
peak memory that ten steps add to a process, and writes them to benchmarks/results/.
"""

from typing import Any

from side_by_side import Adapter, Contest, Features, run
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign

from boxwright.models.images import MEAN, STD
from boxwright.recipes import Recipe, build_detector


class TorchvisionDetector(Adapter):
    """torchvision's Faster R-CNN behind our detector's interface."""

    def __init__(self, recipe: Recipe, class_names: list[str], **options: Any) -> None:
        super().__init__()
        ours = build_detector(recipe, class_names, **options)
        network, width = recipe.detector, ours.neck.channels[0]
        proposals, regions, inference = network.proposals, network.regions, network.inference
        rpn, roi = recipe.criterion.rpn.assigner, recipe.criterion.roi.assigner
        sides = tuple(tuple(round(side) for side, _ in level) for level in ours.priors.shapes)
        anchors = AnchorGenerator(sides, ((1.0,),) * len(sides))
        pool = MultiScaleRoIAlign(
            [str(index) for index in range(len(network.backbone.levels))], regions.pool_size, regions.sampling_ratio
        )
        self.class_names = class_names
        self.model = FasterRCNN(
            Features(ours.backbone, ours.neck, width),
            image_mean=MEAN,
            image_std=STD,
            # images arrive letterboxed: no resizing, neither in training nor in evaluation
            min_size=recipe.data.size,
            max_size=recipe.data.size,
            _skip_resize=True,
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(width, anchors.num_anchors_per_location()[0]),
            rpn_pre_nms_top_n_train=proposals.train_pre_nms,
            rpn_pre_nms_top_n_test=proposals.pre_nms,
            rpn_post_nms_top_n_train=proposals.train_post_nms,
            rpn_post_nms_top_n_test=proposals.post_nms,
            rpn_nms_thresh=proposals.iou_threshold,
            rpn_batch_size_per_image=rpn.count,
            box_roi_pool=pool,
            box_head=TwoMLPHead(width * regions.pool_size**2, regions.channels),
            box_predictor=FastRCNNPredictor(regions.channels, len(class_names) + 1),
            box_score_thresh=inference.score_threshold,
            box_nms_thresh=inference.iou_threshold,
            box_detections_per_img=inference.max_detections,
            box_batch_size_per_image=roi.count,
        )


CONTEST = Contest(
    "torchvision_faster_rcnn",
    "faster-rcnn-tiny",
    ["detector.head.norm=none"],  # torchvision's head has none
    {"boxwright": build_detector, "torchvision": TorchvisionDetector},
)

if __name__ == "__main__":
    run(CONTEST, __doc__.splitlines()[0])
