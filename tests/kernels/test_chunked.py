"""The chunked loss and gradient against the plain form, and what it keeps in memory."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwright.kernels import (
    DistanceModulator,
    FocalModulator,
    Modulator,
    VarifocalModulator,
    chunked,
    dense_targets,
    modulated_cross_entropy,
    modulated_row_sums,
)

MODULATORS = [
    FocalModulator(2.0, 0.25),
    FocalModulator(0.5, torch.tensor([0.1, 0.5, 0.9])),
    FocalModulator(3.0),
    DistanceModulator(2.0),
    DistanceModulator(0.0),
    DistanceModulator(1.0),
    VarifocalModulator(2.0, 0.75, weight_by_target=True, detach=False),
    VarifocalModulator(1.5, 1.0, weight_by_target=False, detach=True),
]


def problem(targets: str) -> tuple[Tensor, Tensor, Tensor | None]:
    logits = torch.randn(2, 50, 3, dtype=torch.float64, requires_grad=True)
    if targets == "dense":
        soft = torch.rand(2, 50, 3)
        return logits, torch.where(soft < 0.6, 0, soft), None
    return logits, torch.randint(-2, 3, (2, 50)), torch.rand(2, 50) if targets == "scores" else None


@pytest.mark.parametrize(("modulator", "targets"), list(itertools.product(MODULATORS, ["labels", "scores", "dense"])))
def test_chunks_equal_the_plain_form(modulator: Modulator, targets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK", 10)  # several chunks, the last one short
    logits, goal, scores = problem(targets)
    t, positive = dense_targets(logits, goal, scores)
    plain = modulated_cross_entropy(logits, t, positive, modulator).sum(-1)
    sums = modulated_row_sums(logits, goal, scores, modulator)
    torch.testing.assert_close(sums, plain)
    upstream = torch.randn(2, 50, dtype=torch.float64)
    expected, actual = (torch.autograd.grad(loss, logits, upstream)[0] for loss in (plain, sums))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(("modulator", "targets"), list(itertools.product(MODULATORS, ["scores", "dense"])))
def test_second_derivatives_are_those_of_the_plain_form(modulator: Modulator, targets: str) -> None:
    logits, goal, scores = problem(targets)
    t, positive = dense_targets(logits, goal, scores)
    factor = torch.rand(2, 50, dtype=torch.float64)
    found = []
    for sums in (
        modulated_row_sums(logits, goal, scores, modulator, factor),
        modulated_cross_entropy(logits, t, positive, modulator).sum(-1) * factor,
    ):
        (slope,) = torch.autograd.grad(sums.square().sum(), logits, create_graph=True)
        # beside a term of its own, a gradient without a graph would go unnoticed
        found.append((slope, *torch.autograd.grad(slope.square().sum() + logits.sum(), logits)))
    torch.testing.assert_close(found[0], found[1])


def test_logits_need_not_be_contiguous() -> None:
    whole = torch.randn(4, 6, 10, requires_grad=True)
    labels = torch.randint(-1, 3, (6, 4))
    sliced = whole.transpose(0, 1)[..., 2:5]
    sums = modulated_row_sums(sliced, labels, None, MODULATORS[0])
    torch.testing.assert_close(sums, modulated_row_sums(sliced.contiguous(), labels, None, MODULATORS[0]))
    sums.sum().backward()
    assert not whole.grad[..., :2].any()
    assert whole.grad[..., 2:5].all()


def test_half_precision_is_summed_in_float32_where_it_is_traced() -> None:
    logits, labels = torch.randn(5, 7).half(), torch.randint(-1, 7, (5,))
    sums = torch.func.vmap(lambda *row: modulated_row_sums(*row, None, MODULATORS[0]))(logits, labels)
    torch.testing.assert_close(sums, modulated_row_sums(logits.float(), labels, None, MODULATORS[0]))


def test_a_second_backward_pass_gives_the_same_gradient() -> None:
    logits, labels, scores = problem("scores")
    factor = torch.rand(labels.shape, dtype=torch.float64)
    loss = modulated_row_sums(logits, labels, scores, MODULATORS[0], factor).sum()
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0].clone()
    second = torch.autograd.grad(3 * loss, logits)[0]
    torch.testing.assert_close(second, 3 * first, rtol=1e-12, atol=1e-12)
    other = modulated_row_sums(logits, labels, scores, MODULATORS[0], factor).sum()
    torch.testing.assert_close(torch.autograd.grad(3 * other, logits)[0], 3 * first, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=str)
def test_the_sum_of_nothing_is_zero(shape: tuple[int, int]) -> None:
    logits = torch.zeros(shape, requires_grad=True)
    sums = modulated_row_sums(logits, torch.full(shape[:1], -1), None, MODULATORS[0])
    assert sums.tolist() == [0.0] * shape[0]
    for _ in range(2):
        assert torch.autograd.grad(sums.sum(), logits, retain_graph=True)[0].shape == shape


def test_float16_keeps_gradients_that_only_a_loss_scale_lifts_above_zero() -> None:
    logits = torch.full((1, 8), -6.0, dtype=torch.float16, requires_grad=True)
    loss = modulated_row_sums(logits, torch.tensor([-1]), None, FocalModulator(2.0, 0.25)).sum()
    (loss * 2**16).backward()
    exact = logits.detach().double().requires_grad_()
    modulated_row_sums(exact, torch.tensor([-1]), None, FocalModulator(2.0, 0.25)).sum().backward()
    assert exact.grad.max() < 2**-24  # below the smallest float16
    torch.testing.assert_close(logits.grad.double() / 2**16, exact.grad, rtol=1e-2, atol=0)


@given(
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=30),
    labels=st.lists(st.integers(-2, 2), min_size=10, max_size=10),
    scores=st.lists(st.floats(0, 1, width=32), min_size=10, max_size=10),
    member=st.sampled_from(range(len(MODULATORS))),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
@settings(max_examples=100, deadline=None)
def test_finite_for_every_finite_input(
    values: list[float], labels: list[int], scores: list[float], member: int, dtype: torch.dtype
) -> None:
    rows = len(values) // 3
    logits = torch.tensor(values[: rows * 3]).reshape(rows, 3).to(dtype).requires_grad_()
    call = (logits, torch.tensor(labels[:rows]), torch.tensor(scores[:rows]), MODULATORS[member])
    loss = modulated_row_sums(*call).sum()
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    wide = logits.detach().to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    plain = modulated_cross_entropy(wide, *dense_targets(wide, *call[1:3]), call[3])
    plain.sum().backward()
    assert wide.grad.isfinite().all()


def test_no_second_tensor_of_the_logits_size_is_held() -> None:
    logits = torch.randn(40_000, 80, requires_grad=True)
    labels = torch.randint(-1, 80, (40_000,))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        modulated_row_sums(logits, labels, None, MODULATORS[0]).sum().backward()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    levels = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    assert max(levels) < 1.2 * logits.numel() * 4
