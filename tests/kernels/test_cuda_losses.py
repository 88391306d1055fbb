"""The losses on a GPU: equal to float64 on the CPU, finite, never waited for, captured and compiled.

    python -m pytest tests/kernels/test_cuda_losses.py -q

Skipped where there is no GPU; `test_fused.py` checks the same kernel there through Triton's interpreter.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import boxwright.losses
from boxwright import losses
from boxwright.kernels import FocalModulator, modulated_row_sums
from boxwright.testing import Kind, Problem, hostile_problems, random_problem
from boxwright.testing.subject import Subject

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none here")

# of gradients; half precision rounds them once, or twice where a factor follows
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-9}
EXTREMES = [0.0, -1e-4, 9.0, -9.0, 17.5, -17.0, 90.0, -90.0, 150.0, -150.0, 1e4, -1e4]
CLASSES = 19

FAMILIES: dict[str, Callable[..., Tensor]] = {
    "focal": losses.sigmoid_focal_loss,
    "focal, gamma 1.5, no alpha": partial(losses.sigmoid_focal_loss, gamma=1.5, alpha=None),
    "focal, gamma 0.5, alpha per class": partial(losses.sigmoid_focal_loss, gamma=0.5, alpha=torch.rand(CLASSES)),
    "sigmoid cross-entropy": losses.sigmoid_cross_entropy,
    "quality focal": losses.quality_focal_loss,
    "task-aligned focal, gamma 1": partial(losses.task_aligned_focal_loss, gamma=1.0),
    "varifocal": losses.varifocal_loss,
    "varifocal, detached": partial(losses.varifocal_loss, detach=True, gamma=1.7),
    "matchability-aware": losses.matchability_aware_loss,
}
# what is not called with inputs and targets alone, and what is no loss
APART = {"ClassificationLoss", "APLoss", "RankSortLoss", "ALRPLoss"}


def every_module() -> list[nn.Module]:
    """One module of each pointwise loss, and some with options that need a tensor."""
    arguments = {"SeesawLoss": (4,), "EqualizedV2Loss": (5,), "FineGrainedLocalizationLoss": (8,)}
    names = [name for name in boxwright.losses.__all__ if name.endswith("Loss") and name not in APART]
    modules = [getattr(boxwright.losses, name)(*arguments.get(name, ())) for name in names]
    alpha = (0.1, 0.2, 0.3, 0.4, 0.5)
    more = [losses.SigmoidFocalLoss(alpha=alpha, class_weight=alpha), losses.SoftmaxFocalLoss(alpha=alpha)]
    forms = [losses.IoULoss("log"), losses.IoULoss("square"), losses.GIoULoss(version="torchvision")]
    versions = [losses.CIoULoss("classic"), losses.CIoULoss("torchvision"), losses.QualityFocalLoss(from_logits=False)]
    return [*modules, *more, *forms, *versions]


def on_gpu(problem: Problem) -> Problem:
    options = {name: option.cuda() for name, option in problem.options.items()}
    return replace(problem, inputs=problem.inputs.cuda(), targets=problem.targets.cuda(), options=options)


def logits_and_targets(rows: int, classes: int, targets: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits (3, rows, classes), the extremes in the first image, and the arguments beside them."""
    logits = torch.randn(3, rows, classes) * 3
    extremes = torch.tensor(EXTREMES * math.ceil(rows * classes / len(EXTREMES)))[: rows * classes]
    logits[0] = extremes[torch.randperm(len(extremes))].view(rows, classes)
    options = {"weight": torch.rand(3, rows)}
    if targets == "dense":
        soft = torch.rand(3, rows, classes)
        return logits, options | {"targets": torch.where(soft < 0.7, 0, soft)}
    options |= {"targets": torch.randint(-2, classes, (3, rows)), "class_weight": torch.rand(classes)}
    return logits, options | ({"scores": torch.rand(3, rows)} if targets == "scores" else {})


def value_and_gradient(
    loss: Callable[..., Tensor], logits: Tensor, options: dict[str, Tensor], reduction: str, above: Tensor | float
) -> tuple[Tensor, Tensor]:
    x = logits.detach().clone().requires_grad_()
    value = loss(x, reduction=reduction, **options)
    (gradient,) = torch.autograd.grad((value * above).sum(), x)
    return value.detach().cpu().double(), gradient.cpu().double()


def compare(loss: Callable[..., Tensor], rows: int, classes: int, dtype: torch.dtype, targets: str, how: str) -> None:
    """Value and gradient on the GPU against the CPU in float64, of the same rounded numbers."""
    logits, options = logits_and_targets(rows, classes, targets)
    logits = logits.to(dtype)
    above: Tensor | float = torch.tensor([1.0, 0.25, 3.0]) if how == "image" else 1.0 if how == "mean" else 2.0
    wide = {name: value.double() if value.is_floating_point() else value for name, value in options.items()}
    expected = value_and_gradient(loss, logits.double(), wide, how, above)
    moved = above.cuda() if isinstance(above, Tensor) else above
    gpu = {name: value.cuda() for name, value in options.items()}
    actual = value_and_gradient(loss, logits.cuda(), gpu, how, moved)
    torch.testing.assert_close(actual[0], expected[0], rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(actual[1], expected[1], rtol=TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_equals_float64(family: str) -> None:
    for targets in ("labels", "scores", "dense"):
        compare(FAMILIES[family], 131, CLASSES, torch.float32, targets, "image")


@pytest.mark.parametrize("family", ["focal", "focal, gamma 0.5, alpha per class", "quality focal", "varifocal"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_equals_float64(family: str, dtype: torch.dtype) -> None:
    for targets in ("scores", "dense"):
        compare(FAMILIES[family], 131, CLASSES, dtype, targets, "image")


@pytest.mark.parametrize("how", ["sum", "mean"])
def test_other_reductions_equal_float64(how: str) -> None:
    for targets in ("scores", "dense"):
        compare(losses.sigmoid_focal_loss, 131, CLASSES, torch.float32, targets, how)


@pytest.mark.parametrize(
    ("rows", "classes"), [(1, 1), (7, 1), (5, 2), (341, 3), (33, 32), (21, 80), (11, 91), (3, 365)]
)
def test_odd_sizes_equal_float64(rows: int, classes: int) -> None:
    compare(losses.sigmoid_focal_loss, rows, classes, torch.float32, "scores", "image")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU at most")
def test_another_device_than_the_current() -> None:
    logits, options = logits_and_targets(131, CLASSES, "scores")
    here, there = (
        value_and_gradient(
            losses.sigmoid_focal_loss, logits.to(device), {k: v.to(device) for k, v in options.items()}, "sum", 2.0
        )
        for device in ("cuda:0", "cuda:1")
    )
    assert torch.equal(here[1], there[1])


def test_more_entries_than_32_bits_count() -> None:
    rows, classes, tail = 2**31 // 80 + 5000, 80, 4000
    if torch.cuda.mem_get_info()[0] < 16 * 2**30:
        pytest.skip("needs 16 GiB of free GPU memory")
    logits = torch.empty(rows, classes, dtype=torch.bfloat16, device="cuda").normal_(-3, 2).requires_grad_()
    labels = torch.randint(-1, classes, (rows,), device="cuda")
    sums = modulated_row_sums(logits, labels, None, FocalModulator(2.0, 0.25))
    (gradient,) = torch.autograd.grad(sums.sum(), logits)
    last = logits.detach()[-tail:].clone().requires_grad_()
    expected = modulated_row_sums(last, labels[-tail:], None, FocalModulator(2.0, 0.25))
    torch.testing.assert_close(sums.detach()[-tail:], expected.detach())
    torch.testing.assert_close(gradient[-tail:], torch.autograd.grad(expected.sum(), last)[0])


@pytest.mark.parametrize("loss", every_module(), ids=repr)
def test_the_gpu_gives_what_the_cpu_gives(loss: nn.Module) -> None:
    subject = Subject.of(loss)
    problem = random_problem(subject.kind, probabilities=subject.probabilities)
    on_device = Subject.of(subject.fresh().cuda(), subject.kind)
    if isinstance(loss, boxwright.losses.FederatedLoss):
        loss.classes = on_device.loss.classes = 5  # no draw, which differs between devices
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5), (torch.bfloat16, 2**-6)):
        expected = subject.value_and_gradient(problem.to(dtype))
        actual = on_device.value_and_gradient(on_gpu(problem.to(dtype)))
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("loss", every_module(), ids=repr)
def test_nothing_hostile_breaks_a_loss_on_the_gpu(loss: nn.Module) -> None:
    subject = Subject.of(loss.cuda())
    problems = hostile_problems(subject.kind, probabilities=subject.probabilities)
    for problem, dtype in itertools.product(problems, (torch.float32, torch.float16)):
        value, gradient = subject.value_and_gradient(on_gpu(problem.to(dtype)))
        assert value.isfinite(), f"{problem.note}, {dtype}"
        assert gradient.isfinite().all(), f"{problem.note}, {dtype}"


def prepared(loss: nn.Module) -> tuple[Callable[[], Tensor], Tensor, Problem]:
    """A call that returns the gradient, its inputs and the problem."""
    kind: Kind = Subject.of(loss).kind
    subject = Subject.of(loss.cuda(), kind)
    problem = on_gpu(random_problem(kind, probabilities=subject.probabilities).to(torch.float32))
    inputs = problem.inputs.requires_grad_()
    options = problem.only(subject.accepted).options

    def gradient() -> Tensor:
        return torch.autograd.grad(loss(inputs, problem.targets, **options), inputs)[0]

    return gradient, inputs, problem


@pytest.mark.parametrize("loss", every_module(), ids=repr)
def test_nothing_waits_for_the_gpu(loss: nn.Module) -> None:
    gradient, *_ = prepared(loss)
    gradient()  # compiling a kernel may wait
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        gradient()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("loss", every_module(), ids=repr)
def test_captured_in_a_cuda_graph(loss: nn.Module) -> None:
    loss.eval()  # running counts would move with every call
    gradient, inputs, problem = prepared(loss)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        gradient()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradient()
    # other numbers in the same memory
    with torch.no_grad():
        inputs.copy_(inputs.flip(0))
        problem.targets.copy_(problem.targets.flip(0))
    graph.replay()
    if not isinstance(loss, boxwright.losses.FederatedLoss):  # which draws anew
        torch.testing.assert_close(captured, gradient())


@pytest.mark.parametrize("loss", [losses.SigmoidFocalLoss(), losses.GIoULoss()], ids=repr)
def test_compiled_equals_eager(loss: nn.Module) -> None:
    subject = Subject.of(loss.cuda())
    problem = on_gpu(random_problem(subject.kind).to(torch.float32))
    expected = subject.value_and_gradient(problem)
    actual = subject.value_and_gradient(problem, torch.compile(loss, fullgraph=True))
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


def test_the_gradient_is_not_touched_again_where_nothing_is_to_be_scaled() -> None:
    logits = torch.randn(4000, 80, device="cuda", requires_grad=True)
    labels = torch.randint(-1, 80, (4000,), device="cuda")
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for scale in (1.0, 2.0):
        logits.grad = None
        (scale * losses.sigmoid_focal_loss(logits, labels, reduction="mean", normalizer=7.0)).backward()
    peak = torch.cuda.max_memory_allocated() - held
    assert peak < 1.2 * logits.numel() * 4, f"{peak / logits.numel() / 4:.2f} times the bytes of the logits"
