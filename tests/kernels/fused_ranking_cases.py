"""Compares the ranking losses through the Triton kernels with their reference, on a CPU with TRITON_INTERPRET=1."""

import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from boxwright.kernels import error_driven, fused_ranking, fused_scan, fused_sorting, soft_count
from boxwright.kernels.entries import Entries
from boxwright.losses import alrp_loss, ap_loss, rank_sort, rank_sort_loss

CASES = ("ordinary", "none positive", "one positive", "all positive", "all ignored", "extremes", "ties", "empty")


def problem(case: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, L, C), labels (B, L) and qualities (B, L)."""
    logits = torch.randn(2, 0 if case == "empty" else 60, 5) * 2 - 1
    labels = torch.where(torch.rand(logits.shape[:2]) < 0.1, torch.randint(0, 5, logits.shape[:2]), -1)
    labels[torch.rand(labels.shape) < 0.1] = -2
    if case == "none positive":
        labels.clamp_(max=-1)
    elif case == "one positive":
        labels.clamp_(max=-1)[1, 7] = 3
    elif case == "all positive":
        labels = torch.randint(0, 5, labels.shape)
    elif case == "all ignored":
        labels.fill_(-2)
    elif case == "extremes":
        logits = torch.where(torch.rand(logits.shape) < 0.1, logits.sign() * 1e4, logits)
    elif case == "ties":
        logits = logits.round()
    return logits.to(dtype), labels, (torch.rand(labels.shape) * 8).ceil() / 8


def updates(logits: Tensor, labels: Tensor, quality: Tensor, scope: str, delta: float) -> Iterator[tuple[str, Tensor]]:
    """Yield the losses of one problem and their gradients, by name."""
    dense = (labels.unsqueeze(-1) == torch.arange(5, device=labels.device)) * quality.unsqueeze(-1)
    dense = dense.where(labels.unsqueeze(-1) != -2, -1.0)
    boxes = quality.clone().requires_grad_()
    losses = {
        "ap": ap_loss(logits, labels, scope=scope, delta=delta),
        "ap, dense": ap_loss(logits, dense, scope=scope, delta=delta),
        "ap, dense integers": ap_loss(logits, dense.sign().long(), scope=scope, delta=delta),
    }
    for name, targets, scores in (("sparse", labels, quality), ("dense", dense, None)):
        ranking, sorting = rank_sort_loss(logits, targets, scores=scores, scope=scope, delta=delta)
        losses |= {f"ranking, {name}": ranking, f"sorting, {name}": sorting}
    losses["alrp"], localization = alrp_loss(logits, labels, boxes, scope=scope, delta=delta)
    yield "boxes", torch.autograd.grad(localization, boxes)[0]
    for name, loss in losses.items():
        yield f"{name}: loss", loss.detach()
        yield f"{name}: gradient", torch.autograd.grad(loss, logits, retain_graph=True)[0]


def find_positives() -> None:
    """Padded entries hold the same positives; more than there is room for raise."""
    logits, labels = torch.randn(2, 700, 5), torch.where(torch.rand(2, 700) < 0.05, 3, -1)
    for targets in (labels, (labels.unsqueeze(-1) == torch.arange(5)).long()):
        found, padded = (Entries.of(logits, targets, "class", capacity) for capacity in (None, 200))
        count = len(found.positive)
        assert torch.equal(padded.positive[:count], found.positive)
        assert padded.positive[count:].unique().tolist() == [logits.numel()]
        assert torch.equal(padded.at_positives(logits)[:count], found.at_positives(logits))
        assert torch.equal(padded.scores()[:count], found.scores())
        assert padded.group()[count:].unique().tolist() == [5]
        with pytest.raises(RuntimeError, match="more than 4 positives"):
            Entries.of(logits, targets, "class", 4)


def fuse() -> None:
    """Make what runs on a GPU run on a CPU."""
    error_driven._fused = lambda inputs: True
    fused_ranking.CELLS = 512  # which the interpreter lays one after the other
    soft_count._cumulative = fused_scan.cumulative
    rank_sort.sorting_errors = fused_sorting.sorting_errors


def main(few: bool) -> None:
    torch.manual_seed(0)
    some = [(case, torch.float32, scope, delta) for case in CASES for scope, delta in (("batch", 1.0), ("class", 0.0))]
    some += [("ordinary", torch.float16, "image", 0.5), ("ordinary", torch.bfloat16, "class", 1.0)]
    some += [("extremes", torch.float64, "image", 1.0), ("extremes", torch.float16, "batch", 1.0)]
    some += [("ties", torch.float32, "batch", 0.0), ("ordinary", torch.float64, "batch", 0.5)]
    some = some[:1] + some[3:4] + some[-6:-5] + some[-2:-1] if few else some
    problems = [(*one, problem(one[0], one[1])) for one in some]
    expected = [
        dict(updates(data[0].requires_grad_(), *data[1:], scope, delta)) for _, _, scope, delta, data in problems
    ]
    fuse()
    find_positives()
    for one, wanted in zip(problems, expected, strict=True):
        case, dtype, scope, delta, data = one
        logits, *rest = (part.detach() for part in data)
        actual = dict(updates(logits.requires_grad_(), *rest, scope, delta))
        tolerance = {torch.float64: 1e-7, torch.float32: 2e-6}.get(dtype, 2e-2)
        for name, value in wanted.items():
            got, scale = actual[name].double(), value.double().norm().clamp(min=1e-6)
            error = (got - value.double()).norm() / scale
            assert error < tolerance, f"{case}, {dtype}, {scope}, delta {delta}, {name}: relative error {error}"
    print(f"{len(problems)} cases agree")


if __name__ == "__main__":
    main(few="few" in sys.argv)
