"""Certify a loss or an assigner, ours or your own: `check_criterion(loss)`, `check_assigner(assigner)`."""

from boxwright.testing.assigner import check_assigner
from boxwright.testing.criterion import check_criterion
from boxwright.testing.problems import Kind, Problem, hostile_problems, random_problem
from boxwright.testing.scenes import Scene, random_predictions, random_priors, random_scene, random_targets
from boxwright.testing.waiting import check_never_waits

__all__ = [
    "Kind",
    "Problem",
    "Scene",
    "check_assigner",
    "check_criterion",
    "check_never_waits",
    "hostile_problems",
    "random_predictions",
    "random_priors",
    "random_problem",
    "random_scene",
    "random_targets",
]
