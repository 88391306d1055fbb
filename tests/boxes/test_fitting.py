"""Anchor fitting on sizes with a known answer."""

import pytest
import torch

from boxwright.boxes import box_iou
from boxwright.boxes.fitting import anchor_recall, fit_anchors, shape_iou
from other_defaults import other_defaults

TRUTH = torch.tensor([[12.0, 30.0], [60.0, 40.0], [150.0, 210.0]])


def _sizes(count: int = 600) -> torch.Tensor:
    spread = 1 + 0.1 * torch.randn(count, 2)
    return TRUTH[torch.randint(3, (count,))] * spread.clamp(0.5, 1.5)


def test_shapes_overlap_as_boxes_around_one_centre():
    sizes, shapes = 1 + 20 * torch.rand(5, 2), 1 + 20 * torch.rand(4, 2)
    around = [torch.cat([-sides / 2, sides / 2], dim=1) for sides in (sizes, shapes)]
    torch.testing.assert_close(shape_iou(sizes, shapes), box_iou(*around))
    assert torch.equal(shape_iou(sizes.repeat(3, 1, 1), shapes), shape_iou(sizes, shapes).repeat(3, 1, 1))
    assert shape_iou(torch.zeros(1, 2), torch.zeros(1, 2)) == 0


def test_a_rare_shape_unlike_all_others_gets_an_anchor():
    rare = torch.tensor([[20.0, 400.0], [400.0, 30.0], [300.0, 300.0]])
    sizes = torch.cat([torch.full((500, 2), 10.0), rare])
    assert torch.equal(fit_anchors(sizes, 4, steps=0), sizes[-4:])


@pytest.mark.parametrize("steps", [0, 200])
def test_clusters_are_found_again(steps):
    anchors = fit_anchors(_sizes(), 3, steps=steps)
    torch.testing.assert_close(anchors, TRUTH, rtol=0.06, atol=0)


def test_mutation_raises_the_mean_best_iou():
    sizes = torch.rand(500, 2) * 200 + 5

    def fitness(anchors: torch.Tensor) -> float:
        return shape_iou(sizes, anchors).amax(dim=1).mean().item()

    plain, refined = (fitness(fit_anchors(sizes, 6, steps=steps, seed=1)) for steps in (0, 400))
    assert refined > plain
    assert anchor_recall(sizes, fit_anchors(sizes, 6, steps=400, seed=1)) > 0.9


def test_anchors_that_fit_perfectly_are_not_refined():
    assert torch.equal(fit_anchors(TRUTH.repeat(50, 1), 3, steps=50), TRUTH)


@pytest.mark.parametrize("count", [1, 3, 12])
def test_k_means_ends_at_the_means_of_the_nearest_objects(count):
    sizes = torch.rand(40, 2) * 100 + 5
    anchors = fit_anchors(sizes, count, steps=0)
    nearest = shape_iou(sizes, anchors).argmax(dim=1)
    torch.testing.assert_close(anchors, torch.stack([sizes[nearest == i].mean(0) for i in range(count)]))


def test_the_seed_decides():
    sizes = torch.rand(100, 2) * 100 + 1
    first, again, other = (fit_anchors(sizes, 4, steps=20, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_recall_counts_both_sides_and_both_directions():
    anchors = torch.tensor([[10.0, 10.0]])
    sizes = torch.tensor([[10.0, 10.0], [39.0, 10.0], [40.0, 10.0], [10.0, 2.6], [10.0, 2.4]])
    assert anchor_recall(sizes, anchors) == pytest.approx(3 / 5)
    assert anchor_recall(sizes[:0], anchors) == 1.0
    assert anchor_recall(sizes, torch.cat([torch.zeros(1, 2), anchors])) == pytest.approx(3 / 5)
    assert anchor_recall(torch.tensor([[0.0, 10.0], [0.0, 0.0]]), torch.cat([torch.zeros(1, 2), anchors])) == 0.0


def test_torch_s_defaults_change_nothing():
    sizes = _sizes(60)
    expected = fit_anchors(sizes, 3, steps=20)
    with other_defaults():
        assert torch.equal(fit_anchors(sizes, 3, steps=20), expected)


def test_what_has_no_finite_area_is_left_out():
    odd = torch.tensor([[0.0, 9.0], [-3.0, 4.0], [float("nan"), 4.0], [float("inf"), 4.0], [1e30, 1e30]])
    sizes = torch.tensor([[0.25, 0.5], [3.0, 4.0], [30.0, 20.0]])
    assert torch.equal(fit_anchors(torch.cat([sizes, odd]), 3, steps=0), sizes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32], ids=str)
def test_any_type_is_as_its_values_in_float32(dtype):
    sizes = (_sizes(60) / 2).round()
    given = sizes.to(dtype).requires_grad_(dtype.is_floating_point)
    anchors = fit_anchors(given, 3, steps=20)
    assert (anchors.dtype, anchors.requires_grad) == (torch.float32, False)
    assert torch.equal(anchors, fit_anchors(sizes, 3, steps=20))


def test_anchors_beyond_the_number_of_shapes_repeat_them():
    sizes = torch.tensor([[30.0, 20.0]]).repeat(5, 1)
    for count in (1, 3):
        assert torch.equal(fit_anchors(sizes, count, steps=0), sizes[:count])


def test_impossible_requests_are_named():
    with pytest.raises(ValueError, match="between 1 and the 2 objects"):
        fit_anchors(torch.tensor([[3.0, 4.0], [5.0, 6.0], [0.0, 9.0]]), 3)
    with pytest.raises(ValueError, match=r"\(N, 2\)"):
        fit_anchors(torch.zeros(4, 4), 2)
    with pytest.raises(ValueError, match=r"\(N, 2\).* got \(2,\)"):
        fit_anchors(torch.ones(2), 1)
    with pytest.raises(ValueError, match="got 0"):
        fit_anchors(torch.ones(4, 2), 0)
