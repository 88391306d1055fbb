"""Compares the ranking losses through the Triton kernels with their reference, on a CPU with TRITON_INTERPRET=1."""

import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from boxwright.kernels import error_driven, fused_ranking
from boxwright.losses import alrp_loss, ap_loss, rank_sort_loss

CASES = (
    "ordinary",
    "none positive",
    "one positive",
    "all positive",
    "no background",
    "all ignored",
    "many classes",
    "extremes",
    "ties",
    "empty",
)
FEW = [
    ("ordinary", torch.float32, "batch", 1.0),
    ("all positive", torch.float32, "class", 1.0),
    ("ties", torch.float16, "image", 0.0),
]
ALL = [
    *((case, torch.float32, *way) for case in CASES for way in (("batch", 1.0), ("class", 0.0), ("image", 0.5))),
    ("ordinary", torch.float16, "image", 0.5),
    ("ordinary", torch.bfloat16, "class", 1.0),
    ("ties", torch.float64, "class", 0.5),
    ("extremes", torch.float64, "image", 1.0),
    ("extremes", torch.float16, "batch", 1.0),
    ("ties", torch.float32, "batch", 0.0),
    ("ordinary", torch.float64, "batch", 0.5),
]


def problem(case: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, L, C), labels (B, L) and qualities (B, L)."""
    classes = {"many classes": 40, "no background": 1}.get(case, 5)
    logits = torch.randn(2, 0 if case == "empty" else 40, classes) * 2 - 1
    share = 0.3 if case == "ties" else 0.1  # so many that three of a group tie
    labels = torch.where(torch.rand(logits.shape[:2]) < share, torch.randint(0, classes, logits.shape[:2]), -1)
    labels[torch.rand(labels.shape) < 0.1] = -2
    if case == "none positive":
        labels.clamp_(max=-1)
    elif case == "one positive":
        labels.clamp_(max=-1)[1, 7] = 3
    elif case in ("all positive", "no background"):
        labels = torch.randint(0, classes, labels.shape)
    elif case == "all ignored":
        labels.fill_(-2)
    elif case == "extremes":
        logits = torch.where(torch.rand(logits.shape) < 0.1, logits.sign() * 1e4, logits)
    elif case == "ties":
        logits = logits.round()
    return logits.to(dtype), labels, (torch.rand(labels.shape) * 8).ceil() / 8


def updates(logits: Tensor, labels: Tensor, quality: Tensor, scope: str, delta: float) -> Iterator[tuple[str, Tensor]]:
    """Yield the losses of one problem and their gradients, by name."""
    classes = torch.arange(logits.shape[-1], device=labels.device)
    dense = (labels.unsqueeze(-1) == classes) * quality.unsqueeze(-1)
    dense = dense.where(labels.unsqueeze(-1) != -2, -1.0)
    boxes = quality.clone().requires_grad_()
    losses = {
        "ap": ap_loss(logits, labels, scope=scope, delta=delta),
        "ap, dense": ap_loss(logits, dense, scope=scope, delta=delta),
        "ap, dense integers": ap_loss(logits, dense.sign().long(), scope=scope, delta=delta),
    }
    for name, targets, scores in (("sparse", labels, quality), ("dense", dense, None), ("alike", labels, None)):
        ranking, sorting = rank_sort_loss(logits, targets, scores=scores, scope=scope, delta=delta)
        losses |= {f"ranking, {name}": ranking, f"sorting, {name}": sorting}
    losses["alrp"], localization = alrp_loss(logits, labels, boxes, scope=scope, delta=delta)
    yield "boxes", torch.autograd.grad(localization, boxes)[0]
    for name, loss in losses.items():
        yield f"{name}: loss", loss.detach()
        yield f"{name}: gradient", torch.autograd.grad(loss, logits, retain_graph=True)[0]


def fuse() -> None:
    """Make what runs on a GPU run on a CPU, in so small pieces that there are several of everything."""
    error_driven._fused = lambda inputs: True
    fused_ranking.CELLS = 256
    fused_ranking.TILE, fused_ranking.PROGRAMS = 256, 2
    fused_ranking.PAIRS = {"ROWS": 8, "COLS": 32}
    fused_ranking.JUDGED = 8


def notice_what_is_not_a_number() -> None:
    """A score that is not a number makes the losses that, be it positive or background, and nothing else happens."""
    for scope, column in (("batch", 2), ("batch", 3), ("class", 2), ("class", 3)):
        logits, labels, quality = problem("ordinary", torch.float32)
        labels[0, 0] = 2
        logits[0, 0, column] = torch.nan
        for loss in (ap_loss(logits, labels, scope=scope), alrp_loss(logits, labels, quality, scope=scope)[0]):
            assert loss.isnan(), f"{scope}, column {column}: {loss}"


def survive_infinity() -> None:
    """A score without bound counts above all that is ranked with it, and nowhere where nothing is."""
    for case, expected in (("none positive", 0.0), ("one positive", 0.5)):
        logits, labels, _ = problem(case, torch.float32)
        logits[0] = -torch.inf
        logits[0, 0] = torch.inf
        labels[0] = -1
        logits[1, :, 3] = -5.0
        logits[1, 7, 3] = 5.0
        loss = ap_loss(logits.requires_grad_(), labels, scope="class")
        (change,) = torch.autograd.grad(loss, logits)
        assert abs(loss.item() - expected) < 1e-6, f"{case}: {loss}"
        assert change.isfinite().all()
    logits, targets = torch.tensor([torch.inf, 0.0, torch.inf, 1.0]), torch.tensor([1, 1, 0, 0])
    for loss in (ap_loss, lambda *ranked, **delta: rank_sort_loss(*ranked, **delta)[0]):
        assert loss(logits, targets, delta=0.0) == 0.5, "one of two, and two of four"


def raise_for_want_of_room() -> None:
    """More positives than there is room for raise."""
    room, fused_ranking.CAPACITY = fused_ranking.CAPACITY, 20
    from triton.runtime.errors import InterpreterError
    from triton.runtime.interpreter import interpreter_builder

    # otherwise the interpreter skips assertions
    object.__setattr__(interpreter_builder.options, "debug", True)
    logits, labels, _ = problem("all positive", torch.float32)
    for scope in ("batch", "class", "image"):
        with pytest.raises(InterpreterError, match="more than 32767 positives"):
            ap_loss(logits, labels, scope=scope)
    object.__setattr__(interpreter_builder.options, "debug", False)
    fused_ranking.CAPACITY = room


def main(few: bool) -> None:
    torch.manual_seed(0)
    problems = [(*one, problem(one[0], one[1])) for one in (FEW if few else ALL)]
    expected = [
        dict(updates(data[0].requires_grad_(), *data[1:], scope, delta)) for _, _, scope, delta, data in problems
    ]
    fuse()
    raise_for_want_of_room()
    notice_what_is_not_a_number()
    survive_infinity()
    for one, wanted in zip(problems, expected, strict=True):
        case, dtype, scope, delta, data = one
        logits, *rest = (part.detach() for part in data)
        actual = dict(updates(logits.requires_grad_(), *rest, scope, delta))
        for name, value in wanted.items():
            # losses and what goes to boxes are not rounded to half precision
            tolerance = {torch.float64: 1e-7, torch.float32: 2e-6}.get(value.dtype, 2e-2)
            got, scale = actual[name].double(), value.double().norm().clamp(min=1e-6)
            error = (got - value.double()).norm() / scale
            assert error < tolerance, f"{case}, {dtype}, {scope}, delta {delta}, {name}: relative error {error}"
    print(f"{len(problems)} cases agree")


if __name__ == "__main__":
    main(few="few" in sys.argv)
