"""Every assigner on inputs that are empty, of another type, laid out otherwise, or on no grid."""

from dataclasses import replace

import pytest
import torch

from assigner_forms import ASSIGNERS
from assignment_scenes import make_predictions, make_priors, make_targets
from boxwright.boxes import AnchorGenerator
from boxwright.structures import Assignment, Predictions, Priors, Targets
from other_defaults import other_defaults

EVERY = pytest.mark.parametrize("name", ASSIGNERS)
ON_GRIDS = ("fcos", "yolo", "ratio", "rpn", "tood ultralytics", "hungarian")  # by level, by cell, or for the extent
SEARCHING = [name for name in ASSIGNERS if not name.startswith(ON_GRIDS)]
Scene = tuple[Priors, Targets, Predictions]


def answers(name: str, scene: Scene) -> list[Assignment]:
    result = ASSIGNERS[name](*scene)
    return [result] if isinstance(result, Assignment) else list(result)


def scene_of(priors: Priors, images: int = 2, objects: int = 5, *, hostile: bool = False, seed: int = 0) -> Scene:
    targets = make_targets(seed, images, objects, hostile=hostile, crowd=True)
    return priors, targets, make_predictions(seed, priors, images, hostile=hostile)


def assert_same(name: str, scene: Scene, other: Scene) -> None:
    for found, expected in zip(answers(name, scene), answers(name, other), strict=True):
        assert torch.equal(found.gt_index, expected.gt_index)
        torch.testing.assert_close(found.score, expected.score, atol=1e-5, rtol=1e-5)


def grids(*cells: tuple[int, int]) -> Priors:
    return AnchorGenerator.square((8, 16, 32)[: len(cells)], offset=0.5)(cells)


@EVERY
@pytest.mark.parametrize(
    "scene",
    [
        scene_of(grids((0, 0)), 2, 5),
        scene_of(grids((0, 0)), 2, 0),
        tuple(part[:0] if not isinstance(part, Priors) else part for part in scene_of(make_priors())),
        tuple(part[:0] if not isinstance(part, Priors) else part for part in scene_of(make_priors(), objects=0)),
        scene_of(make_priors(), objects=0),
        scene_of(grids((1, 1)), hostile=True),
        scene_of(grids((2, 1)), objects=50, hostile=True),
        scene_of(make_priors(height=8, width=300), hostile=True),
    ],
    ids=["no priors", "neither", "no images", "nothing", "no objects", "one prior", "more objects than priors", "wide"],
)
def test_empty_or_small(name, scene):
    for answer in answers(name, scene):
        assert answer.gt_index.shape == answer.score.shape == (len(scene[1]), len(scene[0]))
        assert answer.score.isfinite().all()


@EVERY
def test_a_level_without_cells_changes_nothing(name):
    without = AnchorGenerator.square((8, 32), offset=0.5)([(4, 5), (2, 2)])
    assert_same(name, scene_of(grids((4, 5), (0, 3), (2, 2))), scene_of(without))


@EVERY
def test_without_objects_all_is_background_or_ignored(name):
    priors, targets, predictions = scene_of(make_priors())
    for crowd in (targets.valid, targets.valid & False):
        for answer in answers(name, (priors, replace(targets, valid=targets.valid & crowd, crowd=crowd), predictions)):
            assert not answer.positive.any()
            assert not answer.score.any()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32], ids=str)
def test_any_type_is_as_its_values_in_float32(name, dtype):
    priors, targets, predictions = scene_of(make_priors(3))

    def cast(tensor: torch.Tensor, dtype: torch.dtype = dtype) -> torch.Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() or not dtype.is_floating_point else tensor

    def back(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.float() if tensor.dtype == dtype else tensor

    assert_same(name, (priors.map(cast), targets, predictions), (priors.map(cast).map(back), targets, predictions))
    low = replace(targets, boxes=cast(targets.boxes))
    assert_same(name, (priors, low, predictions), (priors, low.map(back), predictions))
    if dtype.is_floating_point:
        low = predictions.map(cast)
        assert_same(name, (priors, targets, low), (priors, targets, low.map(back)))
    else:
        low = replace(targets, labels=cast(targets.labels))
        assert_same(name, (priors, low, predictions), (priors, targets, predictions))


@EVERY
def test_torch_s_defaults_change_nothing(name):
    scene = scene_of(make_priors(3), objects=7, hostile=True)
    torch.manual_seed(0)
    expected = answers(name, scene)
    with other_defaults():
        torch.manual_seed(0)
        found = answers(name, scene)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.gt_index, other.gt_index)
        torch.testing.assert_close(one.score, other.score, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["tood", "simota", "rtmdet", "dual", "hungarian", "hungarian batched"])
def test_a_label_without_a_logit_is_named(name):
    priors, targets, predictions = scene_of(make_priors())
    assert predictions.logits.shape[-1] == 4
    for label in (4, -1):
        wrong = replace(targets, labels=torch.full_like(targets.labels, label))
        with pytest.raises(ValueError, match=f"labels must be 0 to 3 for logits of 4 classes, got {label}"):
            answers(name, (priors, wrong, predictions))


@pytest.mark.parametrize("name", ["tood", "simota", "rtmdet", "dual", "hungarian"])
@pytest.mark.parametrize("dim", [0, 1])
def test_predictions_are_one_per_image_and_prior(name, dim):
    priors, targets, predictions = scene_of(make_priors())
    fewer = predictions.map(lambda tensor: tensor.narrow(dim, 0, 1))
    words = r"need logits \(B, L, C\) and boxes \(B, L, 4\) of B = 2, L = \d+, got \("
    for wrong in (fewer, replace(predictions, boxes=fewer.boxes), replace(predictions, logits=fewer.logits)):
        with pytest.raises(ValueError, match=words):
            answers(name, (priors, targets, wrong))


@EVERY
def test_any_layout(name):
    scene = scene_of(make_priors(3))
    apart = tuple(part.map(lambda tensor: torch.stack([tensor, tensor], dim=-1)[..., 0]) for part in scene)
    assert not apart[0].boxes.is_contiguous()
    assert_same(name, apart, scene)


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("hostile", [False, True])
def test_a_search_finds_what_the_grid_knows(name, hostile):
    priors, *others = scene_of(grids((6, 9)), objects=7, hostile=hostile, seed=3)
    alone = replace(priors, levels=())
    assert_same(name, (alone, *others), (priors, *others))
    each = replace(alone, boxes=priors.boxes.expand(2, -1, -1), centers=priors.centers.expand(2, -1, -1))
    assert_same(name, (each, *others), (priors, *others))
    assert_same(name, (replace(each, levels=priors.levels), *others), (priors, *others))


@pytest.mark.parametrize("name", SEARCHING)
def test_where_the_origin_lies_does_not_matter(name):
    """In whole pixels, which are shifted without rounding."""
    priors, targets, predictions = scene_of(grids((9, 12), (5, 6)), objects=6, seed=1)

    def moved(x: float, y: float) -> Scene:
        by = torch.tensor([x, y, x, y])
        return (
            replace(priors, boxes=priors.boxes + by, centers=priors.centers + by[:2], levels=()),
            replace(targets, boxes=targets.boxes.round() + by),
            predictions.with_boxes(predictions.boxes.round() + by),
        )

    assert_same(name, moved(-1024, -2048), moved(0, 0))


@pytest.mark.parametrize("name", SEARCHING)
def test_what_has_no_area_overlaps_nothing_on_a_grid_either(name):
    priors, _, predictions = scene_of(grids((6, 9)))
    points = replace(priors, boxes=priors.centers.repeat(1, 2))
    targets = Targets.from_list([{"boxes": points.boxes[:3], "labels": torch.tensor([0, 1, 2])}] * 2)
    assert_same(name, (points, targets, predictions), (replace(points, levels=()), targets, predictions))


@pytest.mark.parametrize("name", ["tood", "tood ultralytics", "simota", "rtmdet", "dual", "yolo"])
@pytest.mark.parametrize(("value", "as_good_as"), [(torch.nan, 0.0), (torch.inf, 1e9), (-1e30, -1e9)])
def test_predicted_boxes_that_are_none_are_boxes_without_area(name, value, as_good_as):
    priors, targets, predictions = scene_of(make_priors(3))
    broken, sound = predictions.boxes.clone(), predictions.boxes.clone()
    broken[:, ::5], sound[:, ::5] = value, as_good_as
    for answer in answers(name, (priors, targets, predictions.with_boxes(broken))):
        assert answer.score.isfinite().all()
    assert_same(
        name, (priors, targets, predictions.with_boxes(broken)), (priors, targets, predictions.with_boxes(sound))
    )
