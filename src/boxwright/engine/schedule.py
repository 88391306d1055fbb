"""The learning rate as a pure function of the step, so that nothing needs saving for a resume."""

import math
from dataclasses import dataclass
from typing import Literal, Self

from torch.optim import Optimizer

from boxwright.recipes.training import ScheduleConfig

__all__ = ["Schedule"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Factor of the base learning rate: a linear warm-up times a staircase or half a cosine.

    >>> schedule = Schedule("step", total_steps=100, warmup_steps=10, warmup_start=0.1, milestones=(60, 80))
    >>> [round(schedule.factor(step), 3) for step in (0, 5, 10, 59, 60, 99)]
    [0.1, 0.55, 1.0, 1.0, 0.1, 0.01]

    Attributes:
        kind: `step` multiplies by `gamma` at every milestone; `cosine` falls from 1 to `final` (Loshchilov & Hutter,
            2016, arXiv:1608.03983, without restarts).
        total_steps: optimiser steps of the whole training.
        warmup_steps: steps over which the factor rises linearly from `warmup_start` (Goyal et al., 2017,
            arXiv:1706.02677).
        milestones: optimiser steps, not epochs.
        offset: added to the index of a step, where the epochs before a resume had another number of steps.
    """

    kind: Literal["step", "cosine"]
    total_steps: int
    warmup_steps: int = 0
    warmup_start: float = 0.001
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    final: float = 0.0
    offset: int = 0

    @classmethod
    def from_config(cls, config: ScheduleConfig, steps_per_epoch: int) -> Self:
        """Translate epochs into steps; a warm-up longer than the training is cut to it."""
        total = config.epochs * steps_per_epoch
        return cls(
            kind=config.type,
            total_steps=total,
            warmup_steps=min(config.warmup_steps, total),
            warmup_start=config.warmup_start,
            milestones=tuple(epoch * steps_per_epoch for epoch in config.milestones),
            gamma=config.gamma,
            final=config.final,
        )

    def factor(self, step: int) -> float:
        """Return the factor for the optimiser step with this index, counted from 0."""
        step += self.offset
        return self._warmup(step) * (self._cosine(step) if self.kind == "cosine" else self._staircase(step))

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Set the learning rate of every parameter group for a step; return the factor.

        Raises:
            KeyError: a group has no `initial_lr`, the rate that the factor multiplies.
        """
        factor = self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return factor

    def _warmup(self, step: int) -> float:
        if step >= self.warmup_steps:
            return 1.0
        return self.warmup_start + (1 - self.warmup_start) * step / self.warmup_steps

    def _staircase(self, step: int) -> float:
        return self.gamma ** sum(step >= milestone for milestone in self.milestones)

    def _cosine(self, step: int) -> float:
        progress = min(step / max(self.total_steps, 1), 1.0)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
