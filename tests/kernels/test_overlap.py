"""The chunked kernel of aligned pairs against its plain reference, its memory, and what it refuses."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from boxwright import losses
from boxwright.kernels import overlap
from boxwright.kernels.overlap import PairGeometry, pair_loss, pair_loss_reference
from boxwright.losses.iou import aspect_gap
from boxwright.losses.siou import _siou
from peak_memory import peak_bytes


def everything(pair: PairGeometry) -> Tensor:
    """A loss that depends on every extent, differently on both axes."""
    scale = torch.tensor([[1.0], [3.0]], dtype=pair.inner.dtype)
    parts = pair.inner * pair.size + pair.hull.sqrt() * pair.target_size + pair.offset.square() * pair.offset
    return (parts * scale).sum(0)


def numbers(pair: PairGeometry) -> Tensor:
    """A loss that depends on every area and squared length, some with one and the same gradient."""
    areas = pair.intersection + pair.area + pair.target_area + pair.hull_area
    return areas + pair.squared_diagonal + pair.squared_distance + pair.squared_diagonal / pair.area


def sides(pair: PairGeometry) -> Tensor:
    """A loss that asks for one extent only."""
    return (pair.size - 1).square().sum(0)


def coordinates(pair: PairGeometry) -> Tensor:
    """A loss that depends on every coordinate by itself."""
    return (pair.difference.square() * torch.tensor([[1.0], [2.0], [3.0], [4.0]])).sum(0)


def hulls(pair: PairGeometry) -> Tensor:
    """A loss of the hull alone."""
    return (pair.hull.square() * torch.tensor([[1.0], [3.0]])).sum(0)


FORMULAS = [everything, numbers, sides, coordinates, hulls]


def random_pairs(count: int) -> tuple[Tensor, Tensor]:
    corner = torch.randint(0, 8, (2, count, 2)).double()
    boxes = torch.cat([corner, corner + torch.randint(1, 8, (2, count, 2))], dim=-1)
    return boxes[0].requires_grad_(), boxes[1].requires_grad_()


@pytest.mark.parametrize(
    "formula", [everything, numbers, sides, coordinates, hulls], ids=lambda formula: formula.__name__
)
@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_chunks_agree_with_the_reference(
    formula: overlap.PairFormula, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole-numbered corners coincide often, so that ties share their gradient as PyTorch does."""
    monkeypatch.setattr(overlap, "CHUNK", 7)
    inputs, targets = random_pairs(count)
    weight = torch.rand(count, dtype=torch.float64)
    results = []
    for function in (pair_loss, pair_loss_reference):
        loss = function(formula, inputs, targets)
        asked = [inputs, targets] if formula is not sides else [inputs]
        results.append((loss.detach(), *torch.autograd.grad((loss * weight).sum(), asked)))
    torch.testing.assert_close(results[0], results[1])


def test_a_target_without_gradient_gets_none() -> None:
    inputs, targets = random_pairs(5)
    targets = targets.detach()
    pair_loss(everything, inputs, targets).sum().backward()
    assert inputs.grad.shape == (5, 4)
    assert targets.grad is None


@pytest.mark.parametrize("second", [False, True], ids=["gradient", "second derivative"])
@pytest.mark.parametrize("formula", [everything, numbers, coordinates], ids=lambda formula: formula.__name__)
def test_either_side_alone_may_ask_for_its_gradient(formula: overlap.PairFormula, second: bool) -> None:
    pair = random_pairs(9)
    both = torch.autograd.grad(pair_loss_reference(formula, *pair).square().sum(), pair, create_graph=True)
    for side in (0, 1):
        given = [boxes.detach().requires_grad_(index == side) for index, boxes in enumerate(pair)]
        loss = pair_loss(formula, *given).square().sum()
        (slope,) = torch.autograd.grad(loss, given[side], create_graph=second)
        torch.testing.assert_close(slope, both[side], check_dtype=False)
        if second:
            found = torch.autograd.grad(slope.square().sum(), given[side])[0]
            torch.testing.assert_close(
                found, torch.autograd.grad(both[side].square().sum(), pair[side], retain_graph=True)[0]
            )


def test_a_retained_graph_gives_the_same_gradient_twice() -> None:
    inputs, targets = random_pairs(9)
    loss = pair_loss(everything, inputs, targets).square().sum()
    first = torch.autograd.grad(loss, [inputs, targets], retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, [inputs, targets]), first)


def aspect(pair: PairGeometry) -> Tensor:
    """Of the costs with a gradient in closed form."""
    return aspect_gap(pair, 1e-3) + _siou(pair, theta=4.0, eps=1e-7)


@pytest.mark.parametrize("formula", [everything, numbers, aspect], ids=lambda formula: formula.__name__)
def test_second_derivatives_are_those_of_the_reference(formula: overlap.PairFormula) -> None:
    inputs, targets = random_pairs(12)
    found = []
    for function in (pair_loss, pair_loss_reference):
        loss = function(formula, inputs, targets).square().sum()
        slopes = torch.autograd.grad(loss, [inputs, targets], create_graph=True)
        # beside a term of its own, a gradient without a graph would go unnoticed
        penalty = sum(slope.square().sum() for slope in slopes) + inputs.sum() + targets.sum()
        found.append((*slopes, *torch.autograd.grad(penalty, [inputs, targets])))
    torch.testing.assert_close(found[0], found[1])
    assert all(slope.isfinite().all() for slope in found[0])


@pytest.mark.parametrize("function", [pair_loss, pair_loss_reference])
def test_a_formula_that_gives_more_than_one_number_per_pair_is_refused(function: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"one number per pair, \(6,\), got \(2, 6\)"):
        function(lambda pair: pair.size, *random_pairs(6))


def test_leading_dimensions_are_kept() -> None:
    inputs, targets = random_pairs(6)
    loss = pair_loss(everything, inputs.view(2, 3, 4), targets.view(2, 3, 4))
    assert loss.shape == (2, 3)
    torch.testing.assert_close(loss.flatten(), pair_loss(everything, inputs, targets))


@pytest.mark.parametrize(
    ("loss", "limit"),
    [(losses.iou_loss, 1.8), (losses.giou_loss, 1.9), (losses.ciou_loss, 2.1), (losses.eiou_loss, 2.2)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_memory_is_the_gradient_and_a_chunk(
    loss: Callable[..., Tensor], limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 100_000
    monkeypatch.setattr(overlap, "CHUNK", count // 12 // torch.get_num_threads())
    boxes = torch.rand(count, 4).cumsum(1).requires_grad_()
    run = partial(loss, boxes, boxes.detach().flip(0), reduction="sum")
    # gradient 1, loss 1/4, and room for what one chunk needs
    assert peak_bytes(lambda: run().backward()) <= limit * boxes.nbytes
