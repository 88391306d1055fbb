"""Whether a difference between recipes is more than noise of the seeds and of the images it was measured on."""

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit
from torch import Tensor

__all__ = ["LEVEL", "RESAMPLINGS", "Pair", "Verdict", "compare_recipes", "image_weights", "mean_and_deviation"]

LEVEL: Final = 0.05  # chance of naming any winner where there is none
RESAMPLINGS: Final = 1000
_MOST_SEEDS: Final = 100  # more are not worth counting

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Two recipes; numbers are those of `first` minus `second`.

    Attributes:
        first: index of a recipe.
        second: index of another.
        difference: of the means over seeds.
        seed_error: standard error of the difference by seeds, None with one seed.
        image_error: standard error by the choice of images.
        image_interval: the middle 95 % of the differences over resampled images.
        interval: 95 % interval by seeds and images together, None with one seed.
        p: chance of a difference as large where there is none, None with one seed.
        p_corrected: that, corrected for the number of pairs (Holm 1979), None with one seed.
        significant: whether the corrected chance is at most `LEVEL`.
        seeds_needed: seeds in all with which a difference of this size would be significant; None where no number up to
            100 suffices, or it is significant.
        images_needed: images with which it would be with the present seeds; None where no number suffices, or it is.
    """

    first: int
    second: int
    difference: float
    seed_error: float | None
    image_error: float
    image_interval: tuple[float, float]
    interval: tuple[float, float] | None
    p: float | None
    p_corrected: float | None
    significant: bool
    seeds_needed: int | None
    images_needed: int | None


@dataclass(frozen=True)
class Verdict:
    """What can be said: `winner` beats every other recipe; `leaders` are the best and those not surely worse."""

    winner: int | None
    leaders: tuple[int, ...]
    pairs: tuple[Pair, ...]


def image_weights(images: int, resamplings: int = RESAMPLINGS) -> Tensor:
    """Draw images with replacement: (resamplings, images) how often each counts, the same for every run."""
    draws = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=resamplings)
    return torch.from_numpy(draws)


def mean_and_deviation(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and sample deviation; None where there are too few values."""
    mean = float(np.mean(values)) if len(values) else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def compare_recipes(scores: Sequence[Sequence[float]], resampled: Sequence[Floats], images: int) -> Verdict:
    """Compare every pair of recipes.

    The error of a difference has two sources: another seed, and other images. The first is the deviation over seeds; as
    few seeds may lie close together by chance, that of the pair or that of all recipes pooled, whichever is larger. The
    second is the deviation of the difference of the means over paired bootstrap samples of the images (Efron 1979).
    Their squares add up; the sum is judged by Student's t with Satterthwaite's (1946) degrees of freedom, and all pairs
    together by Holm (1979). The part of the noise that belongs to a seed on an image counts in both, which errs towards
    no winner.

    Args:
        scores: the score of every seed, by recipe.
        resampled: (B,) mean score over seeds in every bootstrap sample, by recipe.
        images: number of images.
    """
    raw = [
        _Noise.of(scores, resampled, images, first, second)
        for first, second in itertools.combinations(range(len(scores)), 2)
    ]
    levels, corrected = _holm([noise.p for noise in raw])
    pairs = tuple(noise.pair(level, p) for noise, level, p in zip(raw, levels, corrected, strict=True))
    means = [float(np.mean(values)) for values in scores]
    best = int(np.argmax(means))
    decided = [{pair.first, pair.second} for pair in pairs if pair.significant]
    worse = set().union(*(pair - {best} for pair in decided if best in pair))
    leaders = tuple(recipe for recipe in range(len(scores)) if recipe not in worse)
    return Verdict(best if len(leaders) == 1 and len(scores) > 1 else None, leaders, pairs)


@dataclass(frozen=True)
class _Noise:
    """What is known of a pair before the number of pairs is taken into account."""

    first: int
    second: int
    difference: float
    seeds: int
    seed_variance: float  # of the difference of one seed each
    seed_df: float  # grows in proportion to seeds - 1
    image_error: float
    image_interval: tuple[float, float]
    images: int

    @classmethod
    def of(
        cls, scores: Sequence[Sequence[float]], resampled: Sequence[Floats], images: int, first: int, second: int
    ) -> "_Noise":
        seeds = min(len(scores[first]), len(scores[second]))
        variance, df = _seed_variance(scores, first, second)
        moved = resampled[first] - resampled[second]
        low, high = np.nanquantile(moved, [LEVEL / 2, 1 - LEVEL / 2])
        difference = float(np.mean(scores[first]) - np.mean(scores[second]))
        error = float(np.nanstd(moved, ddof=1))
        return cls(first, second, difference, seeds, variance, df, error, (float(low), float(high)), images)

    def error_and_df(self, seeds: int, images: int) -> tuple[float, float]:
        """Standard error of the difference and its degrees of freedom with some numbers of seeds and images."""
        by_seeds, by_images = self.seed_variance / seeds, self.image_error**2 * self.images / images
        seed_df = self.seed_df * (seeds - 1) / max(self.seeds - 1, 1)
        square = by_seeds**2 / max(seed_df, 1e-9) + by_images**2 / max(images - 1, 1)
        total = by_seeds + by_images
        return math.sqrt(total), total**2 / square if square else math.inf

    @property
    def p(self) -> float:
        """Chance of such a difference where there is none; 1 with one seed, which says nothing about seeds."""
        return 1.0 if self.seeds < 2 else self.chance(self.seeds, self.images)

    def chance(self, seeds: int, images: int) -> float:
        """That chance, had the difference been seen with other numbers of seeds and images."""
        error, df = self.error_and_df(seeds, images)
        if error == 0:
            return 1.0 if self.difference == 0 else 0.0
        return 2 * float(stdtr(df, -abs(self.difference / error)))

    def pair(self, level: float, corrected: float) -> Pair:
        significant = corrected <= LEVEL
        common: dict[str, Any] = {"image_error": self.image_error, "image_interval": self.image_interval}
        if self.seeds < 2:
            return Pair(self.first, self.second, self.difference, None, interval=None, p=None, p_corrected=None,
                        significant=False, seeds_needed=None, images_needed=None, **common)  # fmt: skip
        error, df = self.error_and_df(self.seeds, self.images)
        reach = float(stdtrit(df, 1 - LEVEL / 2)) * error
        more = range(self.seeds + 1, _MOST_SEEDS + 1)
        doublings = [self.images * 2**power for power in range(1, 11)]
        return Pair(
            self.first,
            self.second,
            self.difference,
            math.sqrt(self.seed_variance / self.seeds),
            interval=(self.difference - reach, self.difference + reach),
            p=self.p,
            p_corrected=corrected,
            significant=significant,
            seeds_needed=None if significant else _first(more, lambda n: self.chance(n, self.images) <= level),
            images_needed=None if significant else _first(doublings, lambda n: self.chance(self.seeds, n) <= level),
            **common,
        )


def _seed_variance(scores: Sequence[Sequence[float]], first: int, second: int) -> tuple[float, float]:
    """Variance of the difference of one seed each, with its degrees of freedom: the pair's, or twice the pooled one."""
    known = [np.asarray(values) for values in scores if len(values) > 1]
    if not known or min(len(scores[first]), len(scores[second])) < 2:
        return 0.0, 0.0
    pooled_df = sum(len(values) - 1 for values in known)
    pooled = 2 * sum(float(values.var(ddof=1)) * (len(values) - 1) for values in known) / pooled_df
    one, two = (np.asarray(scores[index]) for index in (first, second))
    a, b = float(one.var(ddof=1)), float(two.var(ddof=1))
    if a + b < pooled * (1 - 1e-9):
        return pooled, pooled_df
    square = a**2 / (len(one) - 1) + b**2 / (len(two) - 1)
    return a + b, (a + b) ** 2 / square if square else pooled_df


def _holm(chances: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the level at which each chance is judged, and the chances corrected for their number (Holm 1979)."""
    levels, corrected, so_far = [0.0] * len(chances), [0.0] * len(chances), 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        left = len(chances) - rank
        so_far = max(so_far, min(1.0, left * chances[index]))
        levels[index], corrected[index] = LEVEL / left, so_far
    return levels, corrected


def _first(numbers: Sequence[int], settles: Callable[[int], bool]) -> int | None:
    """Return the first number that settles it, as all after it do."""
    position = bisect.bisect_left(numbers, True, key=settles)
    return numbers[position] if position < len(numbers) else None
