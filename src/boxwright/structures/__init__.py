"""The five data classes that packages exchange: Targets, Priors, Predictions, Assignment, Detections."""

from boxwright.structures.assignment import BACKGROUND, IGNORED, Assignment
from boxwright.structures.detections import Detections
from boxwright.structures.predictions import Predictions
from boxwright.structures.priors import Level, Priors
from boxwright.structures.targets import Targets

__all__ = ["BACKGROUND", "IGNORED", "Assignment", "Detections", "Level", "Predictions", "Priors", "Targets"]
