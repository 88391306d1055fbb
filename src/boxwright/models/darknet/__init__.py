"""darknet's networks and its own files: `.cfg` and `.weights`."""

from boxwright.models.darknet.config import CfgSection, parse_cfg, read_cfg
from boxwright.models.darknet.detector import GridDetector
from boxwright.models.darknet.layouts import layout
from boxwright.models.darknet.network import Darknet
from boxwright.models.darknet.shapes import DetectionLayer
from boxwright.models.darknet.weights import WeightsHeader, load_darknet, read_weights, weights_size, write_weights

__all__ = [
    "CfgSection",
    "Darknet",
    "DetectionLayer",
    "GridDetector",
    "WeightsHeader",
    "layout",
    "load_darknet",
    "parse_cfg",
    "read_cfg",
    "read_weights",
    "weights_size",
    "write_weights",
]
