"""AP-Loss against the golden cases, and against loops in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import ranking_reference
from boxwright.assigners import MaxIoUAssigner
from boxwright.boxes import DeltaCoder
from boxwright.losses.alrp import alrp_loss
from boxwright.losses.l1 import smooth_l1_loss
from boxwright.losses.rank_sort import RankSortLoss, rank_sort_loss
from boxwright.losses.ranking import APLoss, RankingLoss, Scope, ap_loss, average_precision
from boxwright.structures import Priors, Targets
from boxwright.testing import check_criterion
from goldens import close, golden_cases, gradient, load_case
from peak_memory import peak_bytes


@pytest.mark.parametrize("file", golden_cases("losses/ap_loss"))
def test_golden_ap_loss(file: Path) -> None:
    case = load_case(file)
    logits = case["in_logits"].requires_grad_()
    loss = ap_loss(logits, case["in_targets"], delta=case.param("delta"))
    tolerance = 1e-9 if logits.dtype == torch.float64 else 2e-5
    close(loss, case["out_loss"], tolerance)
    close(gradient(loss, logits), case["grad_logits"], tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("delta", [1.0, 0.0])
@pytest.mark.parametrize("sparse", [True, False])
def test_equals_the_published_loop(dtype: torch.dtype, delta: float, sparse: bool) -> None:
    logits = (torch.randn(3, 600, 5) * 2 - 3).to(dtype)
    labels = torch.where(torch.rand(3, 600) < 0.03, torch.randint(0, 5, (3, 600)), -1)
    labels[torch.rand(3, 600) < 0.1] = -2
    logits += 3 * (labels >= 0).unsqueeze(-1).to(dtype)
    dense = (labels.unsqueeze(-1) == torch.arange(5)).long().where(labels.unsqueeze(-1) != -2, -1)
    expected, update = ranking_reference.ap(logits.double().view(-1), dense.view(-1) == 1, dense.view(-1) == 0, delta)
    logits.requires_grad_()
    loss = ap_loss(logits, labels if sparse else dense, delta=delta)
    change = gradient(loss, logits).double().view(-1)
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 4e-3}[dtype]
    assert abs(loss.double() - expected) < min(tolerance, 1e-6)
    assert (change - update).norm() < tolerance * update.norm()


def test_a_group_is_what_it_is_alone() -> None:
    logits = torch.randn(3, 50, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(-2, 4, (3, 50))
    labels[1], labels[labels == 2] = -1, -1
    dense = (labels.unsqueeze(-1) == torch.arange(4)).double().where(labels.unsqueeze(-1) != -2, -1)
    images = [ap_loss(logits[image], labels[image]) for image in (0, 2)]
    classes = [ap_loss(logits[..., c].flatten(), dense[..., c].flatten()) for c in (0, 1, 3)]
    for scope, alone in (("image", images), ("class", classes)):
        expected = torch.stack(alone).mean()
        change = gradient(expected, logits)
        for targets in (labels, dense):
            loss = ap_loss(logits, targets, scope=scope)
            close(loss, expected, 1e-12)
            close(gradient(loss, logits), change, 1e-12)


def test_check() -> None:
    check_criterion(ap_loss, kind="labels", gradcheck=False, pointwise=False, compile=False)
    check_criterion(ap_loss, kind="dense", gradcheck=False, pointwise=False, compile=False)
    check_criterion(APLoss(), gradcheck=False, pointwise=False, compile=False)


@pytest.mark.slow
def test_ap_loss_compiles() -> None:
    check_criterion(ap_loss, kind="labels", gradcheck=False, pointwise=False)


@pytest.mark.parametrize("file", golden_cases("losses/bucketed_ap"))
def test_the_original_beside_the_bucketed_approximation(file: Path) -> None:
    case = load_case(file)
    logits = case["in_logits"].requires_grad_()
    loss = ap_loss(logits, case["in_targets"], delta=case.param("delta"))
    close(loss, case["out_aploss_reference_loss"])
    close(gradient(loss, logits), case["out_aploss_reference_grad"])


@pytest.mark.parametrize("file", golden_cases("losses/ap_loss_detector"))
def test_golden_training_function(file: Path) -> None:
    case = load_case(file)
    logits, params = case["in_classification"].requires_grad_(), case["in_regression"].requires_grad_()
    # boxes that end at their last pixel become boxes that end at its edge
    edge = torch.tensor([0.0, 0, 1, 1]).double()
    anchors = case["in_anchors"] + edge
    priors = Priors(anchors, (anchors[:, :2] + anchors[:, 2:]) / 2, torch.ones(len(anchors)))
    rows = [image[image[:, 4] >= 0] for image in case["in_annotations"]]
    targets = Targets.from_list([{"boxes": row[:, :4] + edge, "labels": row[:, 4].long()} for row in rows])
    assignment = MaxIoUAssigner(keep_argmax=True)(priors, targets)
    labels = assignment.labels(targets)
    dense = (labels.unsqueeze(-1) == torch.arange(logits.shape[-1])).long().where(labels.unsqueeze(-1) != -2, -1)
    if not torch.equal(dense, case["out_targets"]):
        # the original makes every anchor positive that does not touch an object which no anchor touches
        assert (dense == 1).sum() < (case["out_targets"] == 1).sum() / 2
        return
    loss = ap_loss(logits, labels, delta=case.param("delta"))
    close(loss, case["out_cls_loss"])
    close(gradient(loss * case.param("cls_upstream_grad"), logits), case["grad_classification"])
    goal = DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2)).encode(priors, assignment.boxes(targets).double())
    positive = (labels >= 0).double()
    inside = torch.where(positive.unsqueeze(-1) > 0, goal, 0)
    box = smooth_l1_loss(params, inside, beta=1.0, weight=positive, reduction="sum") / positive.sum().clamp(min=1)
    close(box, case["out_reg_loss"])
    # the original's gradient is a quarter of the derivative of what it reports
    close(gradient(box * case.param("reg_upstream_grad"), params) / 4, case["grad_regression"])


@settings(max_examples=60)
@given(ranking_reference.entries, ranking_reference.deltas)
def test_ties_extremes_and_nothing(entries: list[tuple[float, int, float]], delta: float) -> None:
    logits, targets, _ = ranking_reference.tensors(entries)
    loss = ap_loss(logits, targets, delta=delta)
    expected, update = ranking_reference.ap(logits.detach(), targets == 1, targets == 0, delta)
    close(loss, expected)
    close(gradient(loss, logits), update)


def test_float32_keeps_its_digits_with_few_and_with_many_positives() -> None:
    for positives in (1, 50):
        logits = torch.randn(100_000) * 1.5 - 2
        targets = (torch.arange(len(logits)) < positives).long()
        loss = ap_loss(logits.requires_grad_(), targets)
        wide = logits.detach().double()
        expected, update = ranking_reference.ap(wide, targets == 1, targets == 0, 1.0)
        assert abs(loss - expected) < 1e-6
        assert (gradient(loss, logits) - update).norm() < 1e-6 * update.norm()


def test_module_refuses_weights_and_metric_counts_hard() -> None:
    logits, labels = torch.tensor([[3.0], [0.5], [1.0]]), torch.tensor([0, 0, -1])
    assert APLoss()(logits, labels, scores=torch.ones(3), normalizer=7) == ap_loss(logits, labels)
    with pytest.raises(ValueError, match="takes no weight"):
        APLoss()(logits, labels, weight=torch.ones(3))
    assert average_precision(logits.requires_grad_(), labels) == pytest.approx((1 + 2 / 3) / 2)
    assert not average_precision(logits, labels).requires_grad


def test_options_of_the_module_and_the_metric_are_heeded() -> None:
    logits, labels = torch.randn(3, 50, 4), torch.randint(-2, 4, (3, 50))
    loss = APLoss(delta=0.25, scope="image")
    assert loss(logits, labels) == ap_loss(logits, labels, delta=0.25, scope="image") != ap_loss(logits, labels)
    for scope in ("batch", "class", "image"):
        assert average_precision(logits, labels, scope=scope) == 1 - ap_loss(logits, labels, delta=0, scope=scope)


@pytest.mark.parametrize("targets", [[-1, -1, -2], [[0.0, 0, 0], [0, 0, 0], [-1, -1, -1]]])
def test_the_average_precision_of_nothing_is_none(targets: list[Any]) -> None:
    logits, positive = torch.tensor([[3.0, 0, 0], [2, 0, 0], [4, 0, 0]]), torch.tensor(targets)
    assert average_precision(logits, positive) == 0
    positive.view(3, -1)[1, 0] = 0 if positive.ndim == 1 else 1
    assert average_precision(logits, positive) == 0.5


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "error", "words"),
    [
        (torch.ones(2, 3).int(), torch.tensor([0, -1]), {}, TypeError, r"inputs .* got torch.int32 of shape \(2, 3\)"),
        (torch.ones(()), torch.ones(()), {}, TypeError, r"inputs .* got torch.float32 of shape \(\)"),
        (
            torch.ones(2, 3),
            torch.tensor([0]),
            {},
            ValueError,
            r"shape \(2,\) or .* \(2, 3\), got torch.int64",
        ),
        (torch.ones(2, 3), torch.ones(2), {}, TypeError, r"labels \(2,\) must be integers, got torch.float32"),
        (torch.ones(2, 3), torch.ones(2).bool(), {}, TypeError, r"labels \(2,\) must be integers, got torch.bool"),
        (torch.ones(2, 3), torch.tensor([0, 3]), {}, ValueError, "0 to 2 for inputs of 3 classes, got 3"),
        (torch.ones(3), torch.ones(3), {"scope": "class"}, ValueError, r"scope='class' needs .* got shape \(3,\)"),
        (torch.ones(3), torch.ones(3), {"scope": "image"}, ValueError, r"scope='image' needs .* got shape \(3,\)"),
        (torch.ones(3), torch.ones(3), {"scope": "level"}, ValueError, "got 'level'"),
        (torch.ones(3), torch.ones(3), {"delta": -1.0}, ValueError, r"delta must be at least 0, got -1\.0"),
        (torch.ones(3), torch.ones(3), {"delta": float("nan")}, ValueError, "delta must be at least 0, got nan"),
    ],
)
def test_what_does_not_fit_is_named(
    inputs: Tensor, targets: Tensor, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ap_loss(inputs, targets, **options)


def test_rows_are_images_where_there_are_no_others() -> None:
    logits, labels = torch.randn(9, 4), torch.randint(-2, 4, (9,))
    assert ap_loss(logits, labels, scope="image") == ap_loss(logits[:, None], labels[:, None], scope="image")
    assert ap_loss(logits, labels, scope="class") == ap_loss(logits[None], labels[None], scope="class")


def test_a_group_that_is_right_says_nothing_to_the_others() -> None:
    logits = torch.tensor([[9.0, 1.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    wrong = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    boxes = torch.tensor([0.25, 0.5, 0.0])
    losses = {
        "ap": lambda *ranked, **scope: ap_loss(*ranked, **scope),
        "rank-sort": lambda *ranked, **scope: rank_sort_loss(*ranked, **scope)[0],
        "alrp": lambda logits, targets, **scope: alrp_loss(
            logits, targets, boxes.expand(2, 3).T.reshape(targets.shape) if targets.ndim > 1 else boxes, **scope
        )[0],
    }
    for name, loss in losses.items():
        change = gradient(loss(logits, torch.eye(3, 2), scope="class"), logits)
        alone = wrong.clone().requires_grad_()
        expected = gradient(loss(alone, torch.tensor([0.0, 1.0, 0.0])), alone) / 2
        torch.testing.assert_close(change, torch.stack([torch.zeros(3).double(), expected], 1), msg=name)


@pytest.mark.parametrize("threads", [2, 3])
def test_neither_threads_nor_a_second_backward_change_anything(threads: int) -> None:
    logits = torch.randn(3, 601, 5, requires_grad=True)
    labels = torch.randint(-2, 5, (3, 601)).where(torch.rand(3, 601) < 0.1, -1)
    dense = (labels.unsqueeze(-1) == torch.arange(5)).float().where(labels.unsqueeze(-1) != -2, -1)
    expected = gradient(ap_loss(logits, labels), logits)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for targets in (labels, dense):
            loss = ap_loss(logits, targets)
            first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
            close(first, expected, 1e-7)
            assert torch.equal(first, second)
            (twice,) = torch.autograd.grad(2 * loss, logits, retain_graph=True)
            close(twice, 2 * first, 1e-7)
            close(first, expected, 1e-7)  # its memory was that of the bins
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_nothing_to_rank(shape: tuple[int, int]) -> None:
    logits = torch.randn(shape, requires_grad=True)
    for targets in (torch.full(shape[:1], -1), torch.zeros(shape)):
        loss = ap_loss(logits, targets)
        assert loss == 0
        assert gradient(loss, logits).shape == shape


def test_a_logit_that_is_no_number_shows_in_the_loss() -> None:
    for place in (0, 5):
        logits = torch.randn(10)
        logits[place] = torch.nan
        assert ap_loss(logits, (torch.arange(10) == 0).long()).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_returned_may_be_changed_in_place(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 3).to(dtype).requires_grad_()
    loss = ap_loss(logits, torch.tensor([0, -1, -1, 2]))
    loss.backward()
    assert logits.grad is not None
    expected = 2 * logits.grad
    assert torch.equal(logits.grad.mul_(2), expected)
    assert loss.detach().mul_(0) == 0


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_in_float16_end_at_its_largest_number(compiled: bool) -> None:
    logits = torch.randn(4, 3).half().requires_grad_()
    loss = torch.compile(ap_loss, fullgraph=True) if compiled else ap_loss
    (change,) = torch.autograd.grad(1e8 * loss(logits, torch.tensor([0, -1, -1, 2])), logits)
    assert change.abs().max() == torch.finfo(torch.float16).max


@pytest.mark.parametrize(
    ("scope", "rows", "limit"),
    [
        ("batch", 10_000, 3.0),
        ("batch", 100_000, 1.6),
        ("class", 10_000, 3.3),
        ("class", 100_000, 1.8),
    ],
)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("loss", [APLoss, RankSortLoss])
def test_memory_is_the_gradient_and_a_piece(
    loss: type[RankingLoss], dense: bool, scope: Scope, rows: int, limit: float
) -> None:
    logits, labels = torch.randn(rows, 10).requires_grad_(), torch.full((rows,), -1)
    labels[torch.randperm(rows)[: rows // 200]] = 3
    targets = (labels.unsqueeze(-1) == torch.arange(10)).float() if dense else labels
    assert peak_bytes(lambda: gradient(loss(scope=scope)(logits, targets), logits)) <= limit * logits.nbytes


def test_a_huge_logit_costs_the_others_no_digit() -> None:
    logits, labels = torch.randn(60), torch.arange(60) % 3 - 1
    for loss in (ap_loss, lambda *ranked: rank_sort_loss(*ranked)[0]):
        results = []
        for value in (1e2, 1e35):
            ranked = torch.cat([logits, torch.tensor([value, -value])]).unsqueeze(1).requires_grad_()
            targets = torch.cat([labels.clamp(max=0), torch.tensor([-1, -1])])
            results.append(gradient(loss(ranked, targets), ranked))
        torch.testing.assert_close(*results, rtol=1e-6, atol=0)


def test_there_is_no_second_derivative() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    (change,) = torch.autograd.grad(ap_loss(logits, torch.tensor([0, -1, -1, 2])) ** 2, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        change.sum().backward()


def test_autocast_changes_no_bit() -> None:
    logits = torch.randn(3, 50, 4, requires_grad=True)
    labels, quality = torch.randint(-2, 4, (3, 50)), torch.rand(3, 50)

    def results() -> list[Tensor]:
        losses = [ap_loss(logits, labels, scope="class"), *rank_sort_loss(logits, labels, scores=quality)]
        losses.append(alrp_loss(logits, labels, quality)[0])
        return [*losses, *(gradient(loss, logits) for loss in losses)]

    expected = results()
    with torch.autocast("cpu", torch.bfloat16):
        actual = results()
    assert all(map(torch.equal, actual, expected))


def test_infinite_logits_tie_where_steps_are_hard() -> None:
    logits = torch.tensor([torch.inf, 0.0, torch.inf, 1.0])
    for loss in (ap_loss, lambda *ranked, **delta: rank_sort_loss(*ranked, **delta)[0]):
        assert loss(logits, torch.tensor([1, 1, 0, 0]), delta=0.0) == 0.5  # one of two, and two of four


@pytest.mark.parametrize("delta", [0.0, 1.0])
@pytest.mark.parametrize("scope", ["batch", "class", "image"])
@pytest.mark.parametrize("sparse", [True, False])
def test_background_without_bound_counts_like_a_huge_one(sparse: bool, scope: Scope, delta: float) -> None:
    """As where a mask puts classes out of the question by a logit of minus infinity."""
    logits, labels = torch.randn(2, 20, 3), torch.full((2, 20), -1)
    labels[0, :3], labels[1, :2], labels[:, 9] = torch.arange(3), torch.arange(2), -2
    targets = labels if sparse else torch.nn.functional.one_hot(labels.clamp(min=0), 3) * (labels >= 0)[..., None]
    results = []
    for huge in (1e4, torch.inf):
        logits[0, 5], logits[1, 6, 1], logits[1, 7, 0] = -huge, huge, -huge
        loss = ap_loss(logits.requires_grad_(), targets, delta=delta, scope=scope)
        results.append((loss, gradient(loss, logits)))
        logits = logits.detach()
    assert all(map(torch.equal, *results))
