"""Noise is not taken for a difference, a difference is not taken for noise, and what would settle it does."""

import numpy as np
import pytest
import torch
from scipy import stats

from boxwright.study.comparison.matching import Truth, match
from boxwright.study.comparison.statistics import LEVEL, compare_recipes, image_weights
from drawn_scenes import scenes
from simulated_runs import detections

IMAGES = 60


def simulated(rng, seeds=3, qualities=(0.5, 0.5)):
    """Train recipes in earnest but for the training: detections drawn anew for every recipe and seed."""
    truth, _ = scenes(int(rng.integers(1 << 30)), images=IMAGES)
    for image in truth["images"]:
        image["width"] = 500
    arrays, weights = Truth.of(truth), image_weights(IMAGES, 200)
    scores, resampled = [], []
    for quality in qualities:
        runs = [match(arrays, detections(truth, quality, int(rng.integers(1 << 30)))) for _ in range(seeds)]
        scores.append([float(run.average_precision().nanmean()) for run in runs])
        resampled.append(
            np.mean([run.average_precision(weights).flatten(1).nanmean(dim=1).numpy() for run in runs], axis=0)
        )
    return compare_recipes(scores, resampled, IMAGES)


def test_the_same_recipe_with_other_seeds_is_no_winner_in_19_of_20_repeats():
    rng = np.random.default_rng(0)
    assert sum(simulated(rng).winner is not None for _ in range(20)) <= 1


def test_a_real_difference_is_found():
    rng = np.random.default_rng(1)
    assert sum(simulated(rng, qualities=(0.4, 0.7)).winner == 1 for _ in range(5)) >= 4


@pytest.mark.parametrize("recipes", [2, 4])
@pytest.mark.parametrize(("by_seed", "by_image"), [(1.0, 0.0), (1.0, 1.0), (0.1, 1.0)])
def test_families_of_equal_recipes_have_a_winner_in_one_of_twenty(recipes, by_seed, by_image):
    rng = np.random.default_rng(recipes)
    named = 0
    for _ in range(200):
        luck = by_image * rng.standard_normal((recipes, 1))  # of this choice of images, for every seed of a recipe
        scores = luck + by_seed * rng.standard_normal((recipes, 3))
        resampled = scores.mean(axis=1, keepdims=True) + by_image * rng.standard_normal((recipes, 200))
        named += any(pair.significant for pair in compare_recipes(scores.tolist(), list(resampled), 200).pairs)
    assert stats.binomtest(named, 200, LEVEL, alternative="greater").pvalue > 0.01, named


def two(first, second, by_image=1e-6, images=100):
    noise = by_image * np.random.default_rng(0).standard_normal((2, 500))
    return compare_recipes([first, second], list(noise), images)


def test_without_image_noise_a_pair_is_judged_as_by_welch():
    first, second = [0.30, 0.31, 0.35], [0.40, 0.41, 0.415]
    pair = two(first, second).pairs[0]
    welch = stats.ttest_ind(first, second, equal_var=False)
    assert pair.p == pytest.approx(welch.pvalue, rel=1e-3)
    low, high = welch.confidence_interval()
    assert pair.interval == pytest.approx((low, high), rel=1e-3)


def test_seeds_that_happen_to_lie_close_are_judged_by_what_other_recipes_scatter():
    calm, wild = [0.3000, 0.3001, 0.3002], [0.2, 0.3, 0.4]
    scores = [calm, [0.3010, 0.3011, 0.3012], wild]
    assert two(*scores[:2]).pairs[0].significant
    assert not compare_recipes(scores, [np.zeros(10)] * 3, 100).pairs[0].significant


def test_scores_without_any_noise_are_equal_or_not():
    same = compare_recipes([[0.0, 0.0]] * 2, [np.zeros(10)] * 2, 100)
    assert (same.winner, same.pairs[0].p, same.pairs[0].seeds_needed) == (None, 1, None)
    assert compare_recipes([[0.1, 0.1], [0.2, 0.2]], [np.zeros(10)] * 2, 100).winner == 1


def test_one_seed_names_nobody_however_large_the_difference():
    verdict = two([0.1], [0.9])
    assert (verdict.winner, verdict.leaders) == (None, (0, 1))
    pair = verdict.pairs[0]
    assert (pair.p, pair.interval, pair.seed_error, pair.seeds_needed) == (None, None, None, None)


def test_what_would_settle_a_difference_settles_it():
    scores = [0.50, 0.52, 0.54], [0.53, 0.55, 0.57]
    pair = two(*scores).pairs[0]
    assert not pair.significant
    more = pair.seeds_needed
    assert 3 < more < 20
    shape = np.random.default_rng(1).standard_normal(more)
    shape = 0.02 * (shape - shape.mean()) / shape.std(ddof=1)
    assert two(list(0.52 + shape), list(0.55 + shape)).pairs[0].significant
    pair = two([0.50, 0.501, 0.502], [0.53, 0.531, 0.532], by_image=0.02).pairs[0]
    assert not pair.significant
    assert pair.seeds_needed is None
    assert pair.images_needed in (200, 400, 800)
    smaller = 0.02 * (100 / pair.images_needed) ** 0.5
    assert two([0.50, 0.501, 0.502], [0.53, 0.531, 0.532], smaller, pair.images_needed).pairs[0].significant


def test_many_pairs_are_corrected():
    rng = np.random.default_rng(0)
    scores = [(0.3 + 0.01 * rng.standard_normal(3)).tolist() for _ in range(5)]
    pairs = compare_recipes(scores, [np.zeros(10)] * 5, 100).pairs
    own, corrected = [pair.p for pair in pairs], [pair.p_corrected for pair in pairs]
    ranked = sorted(range(10), key=lambda index: own[index])
    so_far = 0.0
    for rank, index in enumerate(ranked):
        so_far = max(so_far, min(1, (10 - rank) * own[index]))
        assert corrected[index] == pytest.approx(so_far)


def test_resampled_images_are_the_same_for_all_and_as_many():
    weights = image_weights(17, 50)
    assert torch.equal(weights, image_weights(17, 50))
    assert weights.sum(dim=1).tolist() == [17] * 50
