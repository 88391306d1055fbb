"""Options that cannot be meant are refused by name."""

import pytest

from boxwright.assigners import (
    ATSSAssigner,
    DualAssigner,
    DynamicSoftLabelAssigner,
    FCOSAssigner,
    HungarianAssigner,
    MaxIoUAssigner,
    ProposalAssigner,
    RandomSampler,
    RatioGridAssigner,
    RPNAssigner,
    SimOTAAssigner,
    SSDAssigner,
    TaskAlignedAssigner,
    YOLOAssigner,
)
from boxwright.errors import RecipeError
from boxwright.recipes import build_criterion, load_recipe

BY_RANK = (ATSSAssigner, DualAssigner, DynamicSoftLabelAssigner, SimOTAAssigner, TaskAlignedAssigner)
BY_CROWD = (*BY_RANK, FCOSAssigner, HungarianAssigner, MaxIoUAssigner, RatioGridAssigner, SSDAssigner, YOLOAssigner)


@pytest.mark.parametrize("kind", BY_RANK)
@pytest.mark.parametrize("topk", [0, -1, 2.5, None])
def test_ranks_count_from_one(kind, topk):
    with pytest.raises(ValueError, match=f"topk must be a whole number of at least 1, got {topk}"):
        kind(topk=topk)


@pytest.mark.parametrize("kind", BY_CROWD)
@pytest.mark.parametrize("share", [-1, 50])  # what elsewhere means never, and per cent
def test_shares_of_a_prior_are_shares(kind, share):
    with pytest.raises(ValueError, match=f"ignore_threshold is a share from 0 to 1, or None .*, got {share}"):
        kind(ignore_threshold=share)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((MaxIoUAssigner, name) for name in ("positive_iou", "negative_iou", "negative_floor", "min_positive_iou")),
        (SSDAssigner, "positive_iou"),
        (YOLOAssigner, "ignore_iou"),
        (RPNAssigner, "negative_iou"),
        (ProposalAssigner, "negative_floor"),
    ],
)
@pytest.mark.parametrize("share", [-0.1, 50])  # per cent
def test_overlaps_are_shares(kind, name, share):
    with pytest.raises(ValueError, match=f"{name} is an IoU from 0 to 1, got {share}"):
        kind(**{name: share})


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (ATSSAssigner, {"conflicts": "inside"}, "conflicts must be one of 'selected', 'all', got 'inside'"),
        (TaskAlignedAssigner, {"inside": "never"}, "inside must be one of 'after', 'before', got 'never'"),
        (TaskAlignedAssigner, {"final_topk": 0}, "final_topk must be a whole number"),
        (TaskAlignedAssigner, {"beta": 0}, r"beta above 0, got 1\.0 and 0"),
        (TaskAlignedAssigner, {"alpha": -1}, r"alpha must be at least 0 .*, got -1 and 6\.0"),
        (DualAssigner, {"overlap": "giou"}, "overlap must be one of 'iou', 'ciou', got 'giou'"),
        (MaxIoUAssigner, {"low_quality": "frist"}, "low_quality must be one of 'all', 'first', 'none', got 'frist'"),
        (SimOTAAssigner, {"near": "window"}, "near must be one of 'center', 'box', got 'window'"),
        (YOLOAssigner, {"ignore_by": "iou"}, "ignore_by must be one of 'prediction', 'shape', got 'iou'"),
        (HungarianAssigner, {"solver": "lap"}, "solver must be one of 'scipy', 'batched', got 'lap'"),
        (FCOSAssigner, {"bounds": (128.0, 64.0)}, r"bounds must rise .*, got \(128\.0, 64\.0\)"),
        (FCOSAssigner, {"bounds": (64.0, 64.0)}, r"bounds must rise .*, got \(64\.0, 64\.0\)"),
        (FCOSAssigner, {"bounds": (-1.0, 64.0)}, r"bounds must rise from above 0 .*, got \(-1\.0, 64\.0\)"),
        (FCOSAssigner, {"bounds": (float("nan"),)}, r"bounds must rise .*, got \(nan,\)"),
        (RatioGridAssigner, {"max_ratio": 1}, "max_ratio must be above 1, .*, got 1"),
        (RandomSampler, {"count": 0}, r"count must be at least 1 .*, got 0 and 0\.5"),
        (RPNAssigner, {"positive_fraction": 2}, "positive_fraction from 0 to 1, got 256 and 2"),
        (ProposalAssigner, {"count": -3}, r"count must be at least 1 .*, got -3 and 0\.25"),
    ],
)
def test_what_cannot_be_meant_is_named(kind, options, words):
    with pytest.raises(ValueError, match=words):
        kind(**options)


def test_a_recipe_says_where():
    with pytest.raises(RecipeError, match=r"criterion\.assigner: topk must be a whole number of at least 1, got 0"):
        build_criterion(load_recipe("atss-tiny", ["criterion.assigner.topk=0"]))
