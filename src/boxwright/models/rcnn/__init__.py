"""Two-stage detectors: proposals, and a head that looks at each of them."""

from boxwright.models.rcnn.detector import TwoStageDetector
from boxwright.models.rcnn.proposals import ProposalFilter
from boxwright.models.rcnn.regions import TwoLayerHead

__all__ = ["ProposalFilter", "TwoLayerHead", "TwoStageDetector"]
