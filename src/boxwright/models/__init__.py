"""Detectors and the networks they are made of."""

from boxwright.models.backbones import Backbone
from boxwright.models.darknet import Darknet, GridDetector
from boxwright.models.detector import DenseDetector
from boxwright.models.guide import Guide
from boxwright.models.heads import ATSSHead, GFLHead, NanoDetHead, PPYOLOEHead, RetinaHead, SSDHead, TOODHead
from boxwright.models.necks import FPN, PAN, ExtraLevels, GhostPAN
from boxwright.models.postprocess import Postprocess

__all__ = [
    "FPN",
    "PAN",
    "ATSSHead",
    "Backbone",
    "Darknet",
    "DenseDetector",
    "ExtraLevels",
    "GFLHead",
    "GhostPAN",
    "GridDetector",
    "Guide",
    "NanoDetHead",
    "PPYOLOEHead",
    "Postprocess",
    "RetinaHead",
    "SSDHead",
    "TOODHead",
]
