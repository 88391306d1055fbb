"""Pairwise and aligned overlaps against torchvision, degenerate boxes, the inclusive-pixel convention."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision import ops

from boxwright.boxes import aligned_iou, box_iou

HOSTILE = torch.tensor(
    [
        [0.0, 0.0, 10.0, 10.0],
        [0.0, 0.0, 10.0, 10.0],
        [2.0, 2.0, 4.0, 4.0],
        [50.0, 50.0, 60.0, 60.0],
        [5.0, 5.0, 5.0, 5.0],
        [5.0, 0.0, 5.0, 10.0],
        [10.0, 10.0, 0.0, 0.0],
        [-1e5, -1e5, 1e5, 1e5],
        [0.0, 0.0, 1e-3, 1e-3],
    ]
)
MODES = ["iou", "iof", "giou", "diou"]


def random_boxes(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    corner = torch.rand(*shape, 2, dtype=dtype) * 100
    return torch.cat([corner, corner + 1 + torch.rand(*shape, 2, dtype=dtype) * 60], dim=-1)


@pytest.mark.parametrize(
    ("mode", "peer"),
    [("iou", ops.box_iou), ("giou", ops.generalized_box_iou), ("diou", ops.distance_box_iou)],
)
def test_pairwise_agrees_with_torchvision(mode: str, peer: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = random_boxes(13), random_boxes(17)
    torch.testing.assert_close(box_iou(a, b, mode), peer(a, b))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("left", "right"), [((2, 9), (2, 5)), ((9,), (3, 5)), ((3, 1), (5,)), ((0,), (5,)), ((9,), (0,))]
)
def test_blocks_of_rows_are_the_whole(
    mode: str, left: tuple[int, ...], right: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = random_boxes(*left), random_boxes(*right, dtype=torch.float32)
    whole = box_iou(a, b, mode)
    monkeypatch.setattr("boxwright.boxes.iou.BLOCK", dict.fromkeys(MODES, 20))  # four rows or fewer
    assert torch.equal(box_iou(a, b, mode), whole)


@pytest.mark.parametrize("mode", MODES)
def test_aligned_is_the_diagonal_of_pairwise(mode: str) -> None:
    a, b = random_boxes(2, 9), random_boxes(2, 9)
    diagonal = box_iou(a, b, mode).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(aligned_iou(a, b, mode), diagonal)


def test_iof_divides_by_the_area_of_the_first() -> None:
    a, b = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[2.0, 0.0, 10.0, 4.0]])
    assert box_iou(a, b, "iof").item() == 0.5


@pytest.mark.parametrize("mode", MODES)
def test_offset_counts_the_last_pixel(mode: str) -> None:
    """Boxes that end at their last pixel are the usual ones with one more pixel on the right and below."""
    boxes = torch.cat([HOSTILE.double(), random_boxes(9)])
    usual = boxes + torch.tensor([0.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(box_iou(boxes, boxes, mode, offset=1.0), box_iou(usual, usual, mode))
    touching = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 2.0, 2.0]])
    assert box_iou(*touching, offset=1.0).item() == pytest.approx(1 / 7)


@pytest.mark.parametrize("mode", MODES)
def test_hostile_boxes_have_finite_values_and_gradients(mode: str) -> None:
    assert box_iou(HOSTILE, HOSTILE, mode).isfinite().all()
    count = len(HOSTILE)
    a = HOSTILE.repeat_interleave(count, 0).requires_grad_()
    b = HOSTILE.repeat(count, 1).requires_grad_()
    value = aligned_iou(a, b, mode)
    value.sum().backward()
    assert value.isfinite().all()
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


def test_half_precision_is_computed_in_float32() -> None:
    box = torch.tensor([[0.0, 0.0, 600.0, 600.0]], dtype=torch.float16)
    assert box_iou(box, box).item() == 1
    assert box_iou(box, box).dtype == torch.float32


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_empty_sets(n: int, m: int) -> None:
    assert box_iou(torch.zeros(n, 4), torch.zeros(m, 4), "giou").shape == (n, m)


def test_errors_name_the_shape_and_the_mode() -> None:
    with pytest.raises(ValueError, match=r"b must have shape .* got \(2, 5\)"):
        box_iou(torch.zeros(2, 4), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="got 'ciouu'"):
        box_iou(torch.zeros(2, 4), torch.zeros(2, 4), "ciouu")


@pytest.mark.parametrize("mode", MODES)
def test_pairwise_peak_memory_is_at_most_three_results(mode: str) -> None:
    a, b = random_boxes(100, dtype=torch.float32), random_boxes(8400, dtype=torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        result = box_iou(a, b, mode)
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert peak <= 3 * result.nbytes


def test_compiles_without_a_graph_break() -> None:
    a, b = random_boxes(5), random_boxes(6)
    compiled = torch.compile(box_iou, fullgraph=True)
    torch.testing.assert_close(compiled(a, b, "giou"), box_iou(a, b, "giou"))
