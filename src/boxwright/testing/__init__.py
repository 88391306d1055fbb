"""Certify a loss, ours or your own: `check_criterion(loss)`."""

from boxwright.testing.criterion import check_criterion
from boxwright.testing.problems import Kind, Problem, hostile_problems, random_problem

__all__ = ["Kind", "Problem", "check_criterion", "hostile_problems", "random_problem"]
