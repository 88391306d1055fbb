"""Criteria: an assigner and losses, put together into named scalar losses."""

from boxwright.criteria.dense import DenseCriterion, centerness
from boxwright.criteria.epochs import set_epoch
from boxwright.criteria.grid import GridCriterion, RegionCriterion, YOLOCriterion
from boxwright.criteria.phased import PhasedCriterion
from boxwright.criteria.ranking import ALRPCriterion, BalancedCriterion
from boxwright.criteria.two_stage import StageCriterion, TwoStageCriterion

__all__ = [
    "ALRPCriterion",
    "BalancedCriterion",
    "DenseCriterion",
    "GridCriterion",
    "PhasedCriterion",
    "RegionCriterion",
    "StageCriterion",
    "TwoStageCriterion",
    "YOLOCriterion",
    "centerness",
    "set_epoch",
]
