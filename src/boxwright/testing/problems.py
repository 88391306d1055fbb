"""Inputs on which losses are tried: ordinary ones, and the ones on which they break."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Generator, Tensor

__all__ = ["Kind", "Problem", "hostile_problems", "random_problem"]

Kind = Literal["labels", "dense", "boxes", "deltas", "gaussian", "distribution"]

IMAGES, PRIORS, CLASSES = 2, 12, 5
EXTREME_LOGITS = (0.0, 1e-4, -1e-4, 1.0, -1.0, 20.0, -20.0, 89.0, -89.0, 150.0, -150.0, 1e4, -1e4)
EXTREME_PROBABILITIES = (0.0, 1e-7, 0.5, 1 - 1e-7, 1.0)
EXTREME_DELTAS = (0.0, 1e-7, -1e-7, 0.1, -1.0, 1.0, 10.0, -1e4, 1e4)
EXTREME_SCORES = (0.0, 1e-6, 0.3, 0.5, 1.0)
HOSTILE_BOXES = {
    "ordinary": (0.0, 0.0, 10.0, 10.0),
    "nested": (2.0, 2.0, 4.0, 5.0),
    "overlapping": (5.0, 5.0, 15.0, 12.0),
    "touching": (10.0, 0.0, 20.0, 10.0),
    "disjoint": (100.0, 100.0, 120.0, 130.0),
    "zero width": (5.0, 5.0, 5.0, 9.0),
    "zero height": (1.0, 3.0, 9.0, 3.0),
    "point": (3.0, 3.0, 3.0, 3.0),
    "inverted": (10.0, 10.0, 0.0, 0.0),
    "tiny": (0.0, 0.0, 1e-4, 1e-4),
    "huge": (-5e4, 0.0, 5e4, 1e5),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """One call of a loss: `loss(inputs, targets, **options)`; `problem[:1]` is that of its first image.

    Attributes:
        note: what is special about it, for messages.
        inputs: of the shape that `random_problem` names for each kind, float64.
        targets: the same.
        options: `weight` (B, L), `normalizer` (a scalar) and, with labels, `scores` (B, L), as far as they are set.
    """

    note: str
    inputs: Tensor
    targets: Tensor
    options: dict[str, Tensor] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> Self:
        """Return the problem with inputs of another dtype (kept within its range) and targets at least float32."""
        limit = torch.finfo(dtype).max / 2
        wide = torch.promote_types(dtype, torch.float32)
        return replace(
            self,
            inputs=self.inputs.double().clamp(-limit, limit).to(dtype),
            targets=self.targets.to(wide) if self.targets.is_floating_point() else self.targets,
            options={name: option.to(wide) for name, option in self.options.items()},
        )

    def only(self, accepted: frozenset[str]) -> Self:
        """Return the problem without the options that a loss does not accept."""
        return replace(self, options={name: value for name, value in self.options.items() if name in accepted})

    def __getitem__(self, images: slice) -> Self:
        """Return a slice of the images."""
        options = {name: value[images] if value.ndim else value for name, value in self.options.items()}
        return replace(self, inputs=self.inputs[images], targets=self.targets[images], options=options)


def random_problem(kind: Kind, seed: int = 0, images: int = IMAGES, probabilities: bool = False) -> Problem:
    """An ordinary problem in float64: positives, background, ignored priors, soft scores, weights, a normaliser.

    Args:
        kind: what the loss compares: "labels" (inputs (B, L, C), int64 labels (B, L)), "dense" (targets (B, L, C) in
            0..1), "boxes" (xyxy (B, L, 4)), "deltas" ((B, L, 4)), "gaussian" (4 deltas and their 4
            log-variances (B, L, 8), deltas (B, L, 4)) or "distribution" (logits (B, L, 4, K + 1) and
            continuous bins (B, L, 4)).
        seed: of the random numbers.
        images: B.
        probabilities: whether inputs are probabilities instead of logits.
    """
    random = torch.Generator().manual_seed(seed)
    shape = (images, PRIORS)
    options = {"weight": _uniform(shape, random) + 0.1, "normalizer": torch.tensor(3.5, dtype=torch.float64)}
    inputs = torch.randn(*shape, CLASSES, generator=random, dtype=torch.float64) * 2
    if probabilities:
        inputs = inputs.sigmoid() * 0.98 + 0.01
    if kind == "labels":
        labels = torch.randint(-2, CLASSES - 1, shape, generator=random)
        return Problem("random", inputs, labels, options | {"scores": _uniform(shape, random)})
    if kind == "dense":
        targets = _uniform((*shape, CLASSES), random)
        return Problem("random", inputs, torch.where(targets < 0.6, 0, targets), options)
    if kind == "boxes":
        return Problem("random", _boxes(shape, random), _boxes(shape, random), options)
    if kind == "deltas":
        return Problem("random", inputs[..., :4], torch.randn(*shape, 4, generator=random).double(), options)
    if kind == "gaussian":
        both = torch.randn(*shape, 8, generator=random, dtype=torch.float64)
        return Problem("random", both, torch.randn(*shape, 4, generator=random).double(), options)
    bins = torch.randn(*shape, 4, 9, generator=random, dtype=torch.float64)
    return Problem("random", bins, _uniform((*shape, 4), random) * 7.9, options)


def hostile_problems(kind: Kind, seed: int = 0, probabilities: bool = False) -> Iterator[Problem]:
    """Yield problems on which published losses give NaN, Inf or a crash: empty, saturated, tied, degenerate.

    Args:
        kind: as in `random_problem`.
        seed: of the random numbers.
        probabilities: whether inputs are probabilities instead of logits.

    >>> [problem.note for problem in hostile_problems("deltas")]
    ['no image', 'no prior', 'every input 0.5', 'normalizer 0', 'extreme deltas']
    """
    usual = random_problem(kind, seed, probabilities=probabilities)
    yield replace(usual[:0], note="no image")
    yield _slice_priors(usual, 0, "no prior")
    yield replace(usual, inputs=torch.full_like(usual.inputs, 0.5), note="every input 0.5")
    yield replace(usual, options=usual.options | {"normalizer": torch.tensor(0.0)}, note="normalizer 0")
    random = torch.Generator().manual_seed(seed)
    if kind == "boxes":
        pool = torch.tensor(list(HOSTILE_BOXES.values()), dtype=torch.float64)
        left, right = pool.repeat_interleave(len(pool), 0), pool.repeat(len(pool), 1)
        yield Problem("pairs of degenerate, inverted, nested, touching and huge boxes", left[None], right[None])
        return
    extremes = (
        EXTREME_PROBABILITIES if probabilities else EXTREME_DELTAS if kind in ("deltas", "gaussian") else EXTREME_LOGITS
    )
    inputs = _choice(extremes, (IMAGES, 200, *usual.inputs.shape[2:]), random)
    if kind in ("deltas", "gaussian"):
        yield Problem("extreme deltas", inputs, _choice(extremes, (*inputs.shape[:2], 4), random))
    elif kind == "distribution":
        yield Problem("extreme logits", inputs, _choice((0.0, 0.5, 3.0, 7.0, 7.9), inputs.shape[:-1], random))
    elif kind == "dense":
        yield Problem("extreme logits", inputs, _choice(EXTREME_SCORES, inputs.shape, random))
    else:
        labels = torch.randint(-2, CLASSES - 1, inputs.shape[:2], generator=random)
        scores = _choice(EXTREME_SCORES, labels.shape, random)
        yield Problem("extreme logits", inputs, labels)
        yield Problem("extreme logits and scores", inputs, labels, {"scores": scores, "weight": scores.flip(0)})
        yield replace(usual, targets=torch.full_like(usual.targets, -1), note="no positive")
        yield replace(usual, targets=usual.targets.clamp(min=0), note="only positives")


def _slice_priors(problem: Problem, priors: int, note: str) -> Problem:
    options = {name: value[:, :priors] if value.ndim else value for name, value in problem.options.items()}
    return Problem(note, problem.inputs[:, :priors], problem.targets[:, :priors], options)


def _boxes(shape: tuple[int, int], random: Generator) -> Tensor:
    """Overlapping boxes within 20 pixels of each other."""
    corner = _uniform((*shape, 2), random) * 10
    return torch.cat([corner, corner + 5 + _uniform((*shape, 2), random) * 15], dim=-1)


def _uniform(shape: tuple[int, ...], random: Generator) -> Tensor:
    return torch.rand(*shape, generator=random, dtype=torch.float64)


def _choice(values: tuple[float, ...], shape: Any, random: Generator) -> Tensor:
    pool = torch.tensor(values, dtype=torch.float64)
    return pool[torch.randint(len(values), tuple(shape), generator=random)]
