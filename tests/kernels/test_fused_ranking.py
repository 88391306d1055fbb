"""The Triton kernels of the ranking losses against their reference: through the interpreter, and on a GPU if any."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from boxwright.kernels.entries import Entries
from boxwright.losses import alrp_loss, ap_loss, rank_sort_loss

CASES = Path(__file__).with_name("fused_ranking_cases.py")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")


def run(interpret: bool, *arguments: str) -> str:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0"}
    result = subprocess.run([sys.executable, CASES, *arguments], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_some_cases_through_the_interpreter() -> None:
    pytest.importorskip("triton")
    assert "4 cases agree" in run(True, "cpu", "few")


@pytest.mark.slow
def test_all_cases_through_the_interpreter() -> None:
    pytest.importorskip("triton")
    assert "20 cases agree" in run(True, "cpu")


@needs_gpu
def test_all_cases_on_the_gpu() -> None:
    assert "20 cases agree" in run(False, "cuda")


@pytest.mark.parametrize("dense", [False, True])
def test_padded_entries_are_the_same_positives(dense: bool) -> None:
    logits, labels = torch.randn(2, 300, 5), torch.where(torch.rand(2, 300) < 0.05, 3, -1)
    targets = (labels.unsqueeze(-1) == torch.arange(5)).long() if dense else labels
    found, padded = (Entries.of(logits, targets, "class", capacity) for capacity in (None, 200))
    count = len(found.positive)
    assert torch.equal(padded.positive[:count], found.positive)
    assert padded.positive[count:].unique().tolist() == [logits.numel()]
    assert torch.equal(padded.at_positives(logits)[:count], found.at_positives(logits))
    assert padded.group()[count:].unique().tolist() == [5]
    with pytest.raises(RuntimeError, match="more than 4 positives"):
        Entries.of(logits, targets, "class", 4)


def losses(logits: torch.Tensor, labels: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Sum of all ranking losses."""
    ranking, sorting = rank_sort_loss(logits, labels, scores=quality)
    return ap_loss(logits, labels) + ranking + sorting + sum(alrp_loss(logits, labels, quality))


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = torch.randn(2, 2000, 20, device="cuda", requires_grad=True)
    labels = torch.where(torch.rand(2, 2000) < 0.05, 3, -1).cuda()
    return logits, labels, torch.rand(2, 2000, device="cuda")


@needs_gpu
def test_nothing_waits_for_the_gpu_and_bits_repeat() -> None:
    logits, labels, quality = problem()
    torch.use_deterministic_algorithms(True)
    try:
        first = torch.autograd.grad(losses(logits, labels, quality), logits)[0]
        torch.cuda.set_sync_debug_mode("error")
        again = torch.autograd.grad(losses(logits, labels, quality), logits)[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, again)


@needs_gpu
def test_captured_in_a_cuda_graph() -> None:
    logits, labels, quality = problem()
    expected = torch.autograd.grad(losses(logits, labels, quality), logits)[0]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.autograd.grad(losses(logits, labels, quality), logits)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (captured,) = torch.autograd.grad(losses(logits, labels, quality), logits)
    graph.replay()
    torch.testing.assert_close(captured, expected)
