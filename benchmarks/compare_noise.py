"""How often `boxwright compare` calls equal recipes different, in simulated comparisons.

    python benchmarks/compare_noise.py

A score is the sum of what the choice of images does to a recipe and what a seed does to it, both normal. Printed is the
share of 1,000 comparisons in which any pair was called different; 5 % is aimed at.
"""

import numpy as np

from boxwright.study.comparison.statistics import compare_recipes

REPEATS, IMAGES = 1000, 200
NOISE = {
    "seeds alone": (1.0, 0.0),
    "seeds and images alike": (1.0, 1.0),
    "mostly images": (0.1, 1.0),
    "one recipe scatters five times as much": (None, 0.0),
}


def share(recipes, seeds, by_seed, by_image):
    rng = np.random.default_rng((recipes, seeds))
    scale = np.ones((recipes, 1)) if by_seed is None else np.full((recipes, 1), by_seed)
    if by_seed is None:
        scale[0] = 5
    named = 0
    for _ in range(REPEATS):
        luck = by_image * rng.standard_normal((recipes, 1))
        scores = luck + scale * rng.standard_normal((recipes, seeds))
        resampled = scores.mean(axis=1, keepdims=True) + by_image * rng.standard_normal((recipes, 200))
        named += any(pair.significant for pair in compare_recipes(scores.tolist(), list(resampled), IMAGES).pairs)
    return named / REPEATS


if __name__ == "__main__":
    print("| recipes | seeds | " + " | ".join(NOISE) + " |")
    print("|---:|---:|" + "---:|" * len(NOISE))
    for recipes, seeds in ((2, 2), (2, 3), (2, 5), (4, 3)):
        cells = [f"{share(recipes, seeds, *noise):.1%}".replace("%", " %") for noise in NOISE.values()]
        print(f"| {recipes} | {seeds} | " + " | ".join(cells) + " |", flush=True)
