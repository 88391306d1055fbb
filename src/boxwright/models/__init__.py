"""Detectors and the networks they are made of."""

from boxwright.extras import needs_extra

with needs_extra("train"):
    from boxwright.models.backbones import Backbone
    from boxwright.models.darknet import Darknet, GridDetector
    from boxwright.models.detector import DenseDetector
    from boxwright.models.guide import Guide
    from boxwright.models.heads import (
        ATSSHead,
        GFLHead,
        NanoDetHead,
        PPYOLOEHead,
        RetinaHead,
        RPNHead,
        SSDHead,
        TOODHead,
    )
    from boxwright.models.necks import FPN, PAN, Bare, ExtraLevels, GhostPAN
    from boxwright.models.postprocess import Postprocess
    from boxwright.models.rcnn import ProposalFilter, TwoLayerHead, TwoStageDetector

__all__ = [
    "FPN",
    "PAN",
    "ATSSHead",
    "Backbone",
    "Bare",
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
    "ProposalFilter",
    "RPNHead",
    "RetinaHead",
    "SSDHead",
    "TOODHead",
    "TwoLayerHead",
    "TwoStageDetector",
]
