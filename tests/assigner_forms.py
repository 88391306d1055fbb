"""Every assigner in the forms that its originals differ in."""

from boxwright.assigners import (
    ATSSAssigner,
    DualAssigner,
    DynamicSoftLabelAssigner,
    FCOSAssigner,
    HungarianAssigner,
    MaxIoUAssigner,
    ProposalAssigner,
    RatioGridAssigner,
    RPNAssigner,
    SimOTAAssigner,
    SSDAssigner,
    TaskAlignedAssigner,
    YOLOAssigner,
)
from boxwright.structures import Assignment

ASSIGNERS = {
    "max_iou": MaxIoUAssigner(),
    "max_iou rpn first": MaxIoUAssigner(0.7, 0.3, min_positive_iou=0.3, low_quality="first"),
    "max_iou rcnn": MaxIoUAssigner(0.5, 0.5, low_quality="none"),
    "max_iou floor": MaxIoUAssigner(0.35, 0.2, negative_floor=0.05, min_positive_iou=0.1),
    "max_iou ap-loss": MaxIoUAssigner(plus_one=True, keep_argmax=True),
    "max_iou inside": MaxIoUAssigner(plus_one=True, keep_argmax=True, margin=0.01),
    "atss": ATSSAssigner(),
    "atss few": ATSSAssigner(topk=2),
    "atss original": ATSSAssigner.original(),
    "atss topk": ATSSAssigner.original(4, adaptive=False),
    "atss paddle": ATSSAssigner.paddle(force_match=True, soft_scores=True),
    "fcos": FCOSAssigner(),
    "fcos plus one": FCOSAssigner((10.0, 40.0), plus_one=True),
    "tood": TaskAlignedAssigner(),
    "tood paddle": TaskAlignedAssigner.paddle(),
    "tood ultralytics": TaskAlignedAssigner.ultralytics(final_topk=7),
    "simota": SimOTAAssigner(),
    "simota mmdet": SimOTAAssigner.mmdet(),
    "simota mild": SimOTAAssigner(penalty=1e3),
    "rtmdet": DynamicSoftLabelAssigner(),
    "nanodet": DynamicSoftLabelAssigner(center_radius=None),
    "dual": DualAssigner(),
    "ssd": SSDAssigner(),
    "yolo": YOLOAssigner(),
    "yolo by shape": YOLOAssigner(ignore_by="shape"),
    "ratio grid": RatioGridAssigner(),
    "rpn": RPNAssigner(count=10**6),  # takes everybody: no chance
    "proposal": ProposalAssigner(count=10**6, positive_fraction=1.0),
    "hungarian": HungarianAssigner(class_form="focal"),
    "hungarian batched": HungarianAssigner(class_form="focal", solver="batched"),
}
# the last of several claimants wins (max-IoU, YOLO); beside a million float32 knows no cents (SimOTA); boxes that
# overlap nothing all cost the same (NanoDet)
ORDERED = {
    "max_iou",
    "max_iou rpn first",
    "max_iou floor",
    "yolo",
    "yolo by shape",
    "simota",
    "simota mmdet",
    "nanodet",
}
WAITING = {"hungarian", "hungarian batched"}


def answers(result: Assignment | tuple[Assignment, ...]) -> list[Assignment]:
    """The assignments of an assigner with one branch or with two."""
    return [result] if isinstance(result, Assignment) else list(result)
