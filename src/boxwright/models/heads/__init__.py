"""Heads: from features to predictions for every prior."""

from boxwright.models.heads.atss import ATSSHead
from boxwright.models.heads.background import WithBackground
from boxwright.models.heads.gfl import GFLHead
from boxwright.models.heads.nanodet import NanoDetHead
from boxwright.models.heads.ppyoloe import PPYOLOEHead
from boxwright.models.heads.quality import DistributionQuality, product_logit
from boxwright.models.heads.retina import RetinaHead
from boxwright.models.heads.rpn import RPNHead
from boxwright.models.heads.ssd import SSDHead
from boxwright.models.heads.tood import TOODHead

__all__ = [
    "ATSSHead",
    "DistributionQuality",
    "GFLHead",
    "NanoDetHead",
    "PPYOLOEHead",
    "RPNHead",
    "RetinaHead",
    "SSDHead",
    "TOODHead",
    "WithBackground",
    "product_logit",
]
