"""Whole losses of classic systems, composed of the small parts of `losses`; each returns its terms by name."""

from boxwright.losses.systems.darknet import darknet_yolo_loss, network_cost
from boxwright.losses.systems.faster_rcnn import StageOutput, faster_rcnn_loss
from boxwright.losses.systems.gfl import gfl_loss
from boxwright.losses.systems.longcw import longcw_loss
from boxwright.losses.systems.multibox import hard_negatives, multibox_loss
from boxwright.losses.systems.region import RegionLoss, region_loss
from boxwright.losses.systems.set_prediction import set_prediction_loss
from boxwright.losses.systems.tood import tood_loss, tood_warmup_loss
from boxwright.losses.systems.yolov3 import yolov3_layer_loss, yolov3_loss

__all__ = [
    "RegionLoss",
    "StageOutput",
    "darknet_yolo_loss",
    "faster_rcnn_loss",
    "gfl_loss",
    "hard_negatives",
    "longcw_loss",
    "multibox_loss",
    "network_cost",
    "region_loss",
    "set_prediction_loss",
    "tood_loss",
    "tood_warmup_loss",
    "yolov3_layer_loss",
    "yolov3_loss",
]
