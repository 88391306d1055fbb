"""Rank & Sort against the golden cases, and against loops in float64."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import ranking_reference
from boxwright.boxes import aligned_iou, cxcywh_to_xyxy
from boxwright.losses.rank_sort import RankSortLoss, rank_sort_loss
from boxwright.losses.ranking import APLoss
from boxwright.losses.systems import set_prediction_loss
from boxwright.testing import check_criterion
from goldens import close, golden_cases, gradient, load_case


@pytest.mark.parametrize("file", golden_cases("losses/rank_sort"))
def test_golden_rank_sort(file: Path) -> None:
    case = load_case(file)
    logits = case["in_logits"].requires_grad_()
    ranking, sorting = rank_sort_loss(logits, case["in_targets"], delta=case.param("delta"))
    close(ranking, case["out_ranking_loss"])
    close(sorting, case["out_sorting_loss"])
    # the original hands out both updates with the ranking loss, and none with the sorting loss
    close(torch.autograd.grad(ranking + sorting, logits)[0], case["grad_logits"])


@pytest.mark.parametrize("file", golden_cases("losses/bucketed_rank_sort"))
def test_bucketed_approximation_is_near_and_exact_for_steps(file: Path) -> None:
    case = load_case(file)
    tolerance = 1e-9 if case.param("delta") == 0 else 2e-2
    logits = case["in_logits"].requires_grad_()
    ranking, sorting = rank_sort_loss(logits, case["in_targets"], delta=case.param("delta"))
    close(ranking, case["out_ranking_loss"], tolerance)
    close(sorting, case["out_sorting_loss"])
    close(torch.autograd.grad(ranking + sorting, logits)[0], case["grad_logits"], tolerance)


@settings(max_examples=60)
@given(ranking_reference.entries, ranking_reference.deltas)
def test_ties_extremes_and_nothing(entries: list[tuple[float, int, float]], delta: float) -> None:
    logits, kind, quality = ranking_reference.tensors(entries)
    losses = rank_sort_loss(logits, kind * torch.where(kind == 1, quality, 1), delta=delta)
    expected = ranking_reference.rank_sort(logits.detach(), kind == 1, kind == 0, quality, delta)
    for loss, value, update in zip(losses, expected[:2], expected[2:], strict=True):
        close(loss, value)
        close(torch.autograd.grad(loss, logits, retain_graph=True)[0], update)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("delta", [0.5, 0.0])
def test_every_precision_equals_the_loop(dtype: torch.dtype, delta: float) -> None:
    logits = (torch.randn(2, 400, 5) * 2 - 2).to(dtype).requires_grad_()
    labels = torch.where(torch.rand(2, 400) < 0.05, torch.randint(0, 5, (2, 400)), -1)
    labels[torch.rand(2, 400) < 0.1] = -2
    quality = (torch.rand(2, 400) * 10).ceil() / 10
    hot, counted = labels.unsqueeze(-1) == torch.arange(5), labels.unsqueeze(-1) != -2
    expected = ranking_reference.rank_sort(
        logits.detach().double().view(-1),
        hot.view(-1),
        (counted & ~hot).view(-1),
        quality.double().unsqueeze(-1).expand(2, 400, 5).reshape(-1),
        delta,
    )
    tolerance = 2e-6 if dtype == torch.float32 else 4e-3
    losses = rank_sort_loss(logits, labels, scores=quality, delta=delta)
    for loss, value, update in zip(losses, expected[:2], expected[2:], strict=True):
        assert abs(loss.double() - value) < 1e-6
        change = torch.autograd.grad(loss, logits, retain_graph=True)[0].double().view(-1)
        assert (change - update).norm() < tolerance * update.norm()


def test_sorting_keeps_its_digits_in_float32() -> None:
    logits, quality = torch.randn(5000).requires_grad_(), torch.rand(5000).clamp(min=0.05)
    positive = torch.rand(5000) < 0.01
    _, sorting = rank_sort_loss(logits, torch.where(positive, quality, 0), delta=0.001)
    wide = logits.detach().double()
    update = ranking_reference.rank_sort(wide, positive, ~positive, quality.double(), 0.001)[3]
    assert (torch.autograd.grad(sorting, logits)[0] - update).norm() < 2e-7 * update.norm()


@pytest.mark.parametrize("tile", [1, 100])
def test_tiles_of_pairs_change_nothing(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = torch.randn(3, 40, 4, dtype=torch.float64, requires_grad=True), torch.randint(-2, 4, (3, 40))
    quality = torch.rand(3, 40).double()

    def results() -> list[Tensor]:
        losses = [rank_sort_loss(logits, labels, scores=quality, scope=scope)[1] for scope in ("batch", "class")]
        return [*losses, *(gradient(loss, logits) for loss in losses)]

    expected = results()
    monkeypatch.setattr("boxwright.kernels.sorting.TILE", tile)
    for value, wanted in zip(results(), expected, strict=True):
        close(value, wanted, 1e-12)


def test_an_order_that_is_right_costs_nothing() -> None:
    logits, background = torch.randn(60, requires_grad=True), torch.rand(60) < 0.3
    quality = torch.where(background, 0, logits.detach().sigmoid())
    sorting = rank_sort_loss(logits, quality, delta=0)[1]
    assert sorting == 0
    assert not gradient(sorting, logits).any()


def test_both_signals_reach_the_logits() -> None:
    logits = torch.tensor([2.0, 1.0, -1.0], requires_grad=True)
    _, sorting = rank_sort_loss(logits, torch.tensor([0.3, 0.9, 0.0]))
    worse, better, background = torch.autograd.grad(sorting, logits)[0]
    assert better < 0 < worse
    assert background == 0


def test_labels_with_scores_equal_dense_qualities_in_every_scope() -> None:
    logits = torch.randn(3, 40, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(-2, 4, (3, 40))
    quality = torch.rand(3, 40).double().clamp(min=0.05)
    hot = labels.unsqueeze(-1) == torch.arange(4)
    dense = torch.where(hot, quality.unsqueeze(-1), 0).where(labels.unsqueeze(-1) != -2, -1)
    for scope in ("batch", "class", "image"):
        sparse = torch.stack(rank_sort_loss(logits, labels, scores=quality, scope=scope))
        full = torch.stack(rank_sort_loss(logits, dense, scope=scope))
        close(sparse, full, 1e-12)
        close(*(torch.autograd.grad(loss[0] + 2 * loss[1], logits)[0] for loss in (sparse, full)), 1e-12)
    alone = torch.stack([sum(rank_sort_loss(logits[i], labels[i], scores=quality[i])) for i in range(3)]).mean()
    close(RankSortLoss(scope="image")(logits, labels, scores=quality), alone, 1e-12)


def test_the_module_heeds_its_options() -> None:
    logits, labels, scores = torch.randn(3, 40, 4), torch.randint(-2, 4, (3, 40)), torch.rand(3, 40)
    expected = sum(rank_sort_loss(logits, labels, scores=scores, delta=0.25, scope="class"))
    assert RankSortLoss(delta=0.25, scope="class")(logits, labels, scores=scores) == expected


@pytest.mark.parametrize("targets", [torch.zeros(3, dtype=torch.int64), torch.zeros(3, 4)])
def test_scores_go_with_labels(targets: Tensor) -> None:
    for scores in (torch.ones(2), torch.ones(3, 4)):
        with pytest.raises(ValueError, match="go with labels of the same shape, got targets"):
            rank_sort_loss(torch.zeros(3, 4), targets, scores=scores)


@pytest.mark.parametrize("loss", [APLoss(), RankSortLoss()], ids=lambda loss: type(loss).__name__)
def test_queries_may_be_ranked_too(loss: APLoss | RankSortLoss) -> None:
    logits, labels = torch.randn(2, 5, 3), torch.tensor([[0, -1, 2, -1, 1], [-1, -1, -1, 2, -1]])
    boxes, predicted = torch.rand(2, 2, 5, 4) / 2 + 0.25
    overlap = aligned_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(boxes))
    losses = set_prediction_loss(logits, predicted, labels, boxes, loss)
    assert losses["classification"] == loss(logits, labels, scores=overlap)


def test_rank_sort_is_sound() -> None:
    check_criterion(RankSortLoss(), gradcheck=False, pointwise=False, compile=False)


@pytest.mark.slow
def test_rank_sort_compiles() -> None:
    check_criterion(RankSortLoss(), gradcheck=False, pointwise=False)
