"""`check_criterion` lets good losses pass and says what is wrong with bad ones."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import complete_box_iou_loss
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from boxwright.losses import ClassificationLoss, SigmoidCrossEntropyLoss, sigmoid_focal_loss
from boxwright.losses.pointwise import check_targets, finish
from boxwright.testing import check_criterion, hostile_problems, random_problem


def squared_error(inputs: Tensor, targets: Tensor) -> Tensor:
    if inputs.shape != targets.shape:
        raise ValueError(f"{tuple(inputs.shape)} does not fit {tuple(targets.shape)}")
    wide = torch.promote_types(inputs.dtype, torch.float32)
    return (inputs.to(wide) - targets.to(wide)).clamp(-100, 100).square().sum()


class Example(nn.Module):
    """A loss of one's own, with a wrong example.

    >>> 1 + 1
    3
    """

    space = "deltas"

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return squared_error(inputs, targets)


def test_a_function_of_one_s_own_passes() -> None:
    check_criterion(squared_error, kind="deltas", reference=lambda x, t: (x - t) ** 2)


def test_functions_of_ours_pass() -> None:
    check_criterion(sigmoid_focal_loss, compile=False)
    check_criterion(SigmoidCrossEntropyLoss(), compile=False)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda x, t: (x - t).square().mean(), "loss is nan"),
        (lambda x, t: (x - t).detach().sum() + torch.zeros((), requires_grad=True), "does not depend on its inputs"),
        (lambda x, t: torch.tensor(0.0), "not connected"),
        (lambda x, t: (x - t).abs().sqrt().sum(), "gradients are not finite"),
        (lambda x, t: ((x - t).relu() * x.exp()).sqrt().sum(), r"random, torch.float64\): .* gradients are not finite"),
        (lambda x, t: (x - t).abs().sum(), "raise RuntimeError instead of ValueError"),
        (lambda x, t: ((x - t) * (x - t).detach()).sum(), "not the derivative"),
        (lambda x, t: (x - t.clamp_(max=0)).abs().sum(), "in place"),
        (lambda x, t: squared_error(x, t) * (1 if t.sum().item() > 0 else 2), r"waits for the device"),
        (lambda x, t: x.abs().sum(dtype=torch.promote_types(x.dtype, torch.float32)), "raise nothing"),
    ],
)
def test_each_fault_is_named(broken: Callable[[Tensor, Tensor], Tensor], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_criterion(broken, kind="deltas", compile=False)


class Entropy(ClassificationLoss):
    """A cross-entropy to see what is wrong with it."""

    def __init__(self, sign: int = 1, shift: int = 0, background: int = -1) -> None:
        super().__init__()
        self.sign, self.shift, self.background = sign, shift, background

    def compute(self, inputs: Tensor, targets: Tensor, *, scores: Tensor | None, **common: Any) -> Tensor:
        check_targets(inputs, targets, scores)
        x = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        labels = torch.where(targets == -1, self.background, targets)
        columns = torch.arange(x.shape[-1]) - self.shift
        t = (labels.unsqueeze(-1) == columns).to(x.dtype)
        t = t if scores is None else t * torch.where(targets == -1, 1, scores).unsqueeze(-1)
        loss = functional.binary_cross_entropy_with_logits(x, t, reduction="none") * self.sign
        return finish(loss, targets, **common, terms=x.shape[-1])


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Entropy(sign=-1), r"larger logit of class \d lowers the loss of a prior with target \d"),
        (
            Entropy(shift=1),
            r"class (\d) raises the loss of a prior with target \1 .column c is class c",
        ),
        (Entropy(background=0), r"larger logit of class 0 lowers the loss of a prior with target -1"),
        (Entropy(), None),
    ],
)
def test_labels_that_are_misread_are_named(broken: Entropy, complaint: str | None) -> None:
    if complaint is None:
        check_criterion(broken, compile=False, waits=True)
        return
    with pytest.raises(AssertionError, match=complaint):
        check_criterion(broken, compile=False)


class Running(Entropy):
    """A cross-entropy divided by a running mean of the positives' probability; each fault is one of its forms."""

    mean: Tensor

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.last: Tensor | None = None
        self.register_buffer("mean", torch.tensor(0.5, dtype=torch.float64))

    def compute(self, inputs: Tensor, targets: Tensor, *, scores: Tensor | None, **common: Any) -> Tensor:
        check_targets(inputs, targets, scores)
        if self.fault == "stale":
            targets = self.last = targets if self.last is None or self.last.shape != targets.shape else self.last
        if self.training or self.fault == "always":
            counted = targets.unsqueeze(-1) >= (0 if self.fault != "ignored" else -2)
            total = (inputs.detach().double().sigmoid() * counted).sum()
            mean = total / (counted.sum() * inputs.shape[-1]).clamp(min=1)
            self.mean.lerp_(torch.where(counted.any(), mean, self.mean), 0.1)
        common["weight"] = self._weight(inputs) if self.fault == "place" else common["weight"]
        scores = None if self.fault == "hard" else scores
        return super().compute(inputs, targets, scores=scores, **common) / self.mean.to(inputs.dtype)

    def _weight(self, inputs: Tensor) -> Tensor:
        return torch.arange(1, inputs.shape[1] + 1).to(inputs).expand(inputs.shape[:2])


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("", None),
        ("stale", r"Running: in evaluation mode the loss hangs on the call before, which had other inputs"),
        ("always", r"Running: a call in evaluation mode changes 'mean'; running values move in training only"),
        ("ignored", r"Running: the loss hangs on ignored priors \(label -2\): \d"),
        ("place", r"Running: the loss hangs on the order of images and priors: \d"),
        ("hard", r"Running: takes scores=, soft targets of the positives, but does not look at them"),
    ],
)
def test_what_a_loss_must_not_hang_on_is_named(fault: str, complaint: str | None) -> None:
    loss = Running(fault)
    options: dict[str, Any] = {"gradcheck": False, "waits": True, "compile": False, "processes": False}
    if complaint is None:
        check_criterion(loss, pointwise=False, **options)
        return
    with pytest.raises(AssertionError, match=complaint):
        check_criterion(loss, pointwise=fault == "hard", **options)


def test_running_values_leave_out_priors_of_weight_0() -> None:
    class Relative(nn.Module):
        """An error relative to its running mean, over all priors or over those with a weight."""

        space = "deltas"
        mean: Tensor

        def __init__(self, *, weighs: bool) -> None:
            super().__init__()
            self.weighs = weighs
            self.register_buffer("mean", torch.ones((), dtype=torch.float64))

        def forward(
            self, inputs: Tensor, targets: Tensor, *, weight: Tensor | None = None, normalizer: Tensor | None = None
        ) -> Tensor:
            if inputs.shape != targets.shape:
                raise ValueError(f"{tuple(inputs.shape)} does not fit {tuple(targets.shape)}")
            wide = torch.promote_types(inputs.dtype, torch.float32)
            error = (inputs.to(wide) - targets.to(wide)).clamp(-100, 100).square().sum(dim=-1)
            weight = torch.ones_like(error) if weight is None else weight.to(wide)
            if self.training:
                counted = weight > 0 if self.weighs else weight >= 0
                mean = (error.detach() * counted).sum().double() / counted.sum().clamp(min=1)
                self.mean.lerp_(torch.where(counted.any(), mean, self.mean), 0.1)
            total = (error * weight).sum() / (1 if normalizer is None else normalizer.clamp(min=1))
            return total / self.mean.to(wide)

    options: dict[str, Any] = {"gradcheck": False, "pointwise": False, "compile": False, "processes": False}
    check_criterion(Relative(weighs=True), **options)
    with pytest.raises(AssertionError, match=r"Relative: the loss hangs on priors of weight 0: \d"):
        check_criterion(Relative(weighs=False), **options)


def test_inputs_that_change_are_named() -> None:
    def clamping(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            inputs.clamp_(max=0)
        return squared_error(inputs, targets)

    with pytest.raises(AssertionError, match="changes its inputs"):
        check_criterion(clamping, kind="deltas")


def test_other_directions_and_errors_are_named() -> None:
    with pytest.raises(AssertionError, match=r"a perfect prediction costs 0, a random one -"):
        check_criterion(lambda x, t: -squared_error(x, t), kind="deltas", compile=False)
    with pytest.raises(AssertionError, match=r"a perfect prediction costs 0, a random one 0"):
        check_criterion(lambda x, t: squared_error(x - x.detach(), t - t), kind="deltas", compile=False)
    with pytest.raises(AssertionError, match=r"class 0 lowers .* with target \[0\.0, .* is 0 or above 0\.6"):
        check_criterion(lambda x, t: squared_error(x, 1 - t), kind="dense", compile=False)
    with pytest.raises(AssertionError, match=r"Entropy \(random, torch.float64\) raises RuntimeError: .*in-place"):
        check_criterion(type("Entropy", (Entropy,), {"compute": lambda self, x, *_, **__: x.clamp_(0).sum()})())


def test_faults_are_named_where_assertions_are_left_out() -> None:
    code = """
import torch
from boxwright.structures import Assignment
from boxwright.testing import check_assigner, check_criterion

for check in (
    lambda: check_criterion(lambda x, t: (x - t).square().mean(), kind="deltas"),
    lambda: check_assigner(lambda p, t, _: Assignment(torch.full((len(t), len(p)), 99), torch.ones(len(t), len(p)))),
):
    try:
        check()
    except AssertionError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True).stdout
    assert "loss is nan" in said
    assert "gt_index is out of range" in said


def test_a_wrong_reference_a_wrong_example_and_a_graph_break_are_named() -> None:
    with pytest.raises(AssertionError, match="differs from the reference"):
        check_criterion(sigmoid_focal_loss, reference=lambda x, t, **options: x.sum(), compile=False)
    with pytest.raises(AssertionError, match=r"Expected:\n *3\nGot:\n *2"):
        check_criterion(Example(), compile=False)

    def breaking(inputs: Tensor, targets: Tensor) -> Tensor:
        loss = squared_error(inputs, targets)
        return loss if loss.item() > 1 else loss * 1

    with pytest.raises(AssertionError, match=r"does not compile"):
        check_criterion(breaking, kind="deltas", waits=True)


def test_faults_of_published_losses_are_found() -> None:
    with pytest.raises(AssertionError, match=r"sigmoid_focal_loss \(no image, .*\): the loss is nan"):
        check_criterion(torchvision_focal, kind="dense")
    with pytest.raises(AssertionError, match=r"complete_box_iou_loss \(every input 0.5, .*\): the loss is nan"):
        check_criterion(complete_box_iou_loss, kind="boxes", gradcheck=False)


def test_a_loss_that_other_processes_cannot_import_is_told_from_a_wrong_one() -> None:
    class Local(Example):  # whose wrong example is not inherited
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

    with pytest.raises(RuntimeError, match=r"Local: 2 processes could not be started .* processes=False"):
        check_criterion(Local(), compile=False)
    check_criterion(Local(), compile=False, processes=False)


def test_a_kind_that_cannot_be_told_is_asked_for() -> None:
    with pytest.raises(ValueError, match="pass kind="):
        check_criterion(torchvision_focal)
    with pytest.raises(ValueError, match=r"pass an object, SigmoidCrossEntropyLoss\(\), instead of the class"):
        check_criterion(SigmoidCrossEntropyLoss)


@pytest.mark.parametrize("kind", ["labels", "dense", "boxes", "deltas", "distribution"])
def test_problems_are_repeatable_and_differ_by_seed(kind: str) -> None:
    first, again, other = (random_problem(kind, seed) for seed in (0, 0, 1))  # type: ignore[arg-type]
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert {"no image", "every input 0.5"} <= {problem.note for problem in hostile_problems(kind)}  # type: ignore[arg-type]
