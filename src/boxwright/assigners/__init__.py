"""Which prior is responsible for which object."""

from boxwright.assigners.atss import ATSSAssigner
from boxwright.assigners.dual import DualAssigner, DualAssignment
from boxwright.assigners.dynamic_soft_label import DynamicSoftLabelAssigner
from boxwright.assigners.fcos import FCOSAssigner
from boxwright.assigners.hungarian import HungarianAssigner
from boxwright.assigners.max_iou import MaxIoUAssigner
from boxwright.assigners.rcnn import ProposalAssigner, RPNAssigner, with_objects
from boxwright.assigners.samplers import HardExampleSampler, HardNegativeSampler, LossSampler, RandomSampler
from boxwright.assigners.simota import SimOTAAssigner
from boxwright.assigners.ssd import SSDAssigner
from boxwright.assigners.task_aligned import TaskAlignedAssigner
from boxwright.assigners.yolo import RatioGridAssigner, YOLOAssigner

__all__ = [
    "ATSSAssigner",
    "DualAssigner",
    "DualAssignment",
    "DynamicSoftLabelAssigner",
    "FCOSAssigner",
    "HardExampleSampler",
    "HardNegativeSampler",
    "HungarianAssigner",
    "LossSampler",
    "MaxIoUAssigner",
    "ProposalAssigner",
    "RPNAssigner",
    "RandomSampler",
    "RatioGridAssigner",
    "SSDAssigner",
    "SimOTAAssigner",
    "TaskAlignedAssigner",
    "YOLOAssigner",
    "with_objects",
]
