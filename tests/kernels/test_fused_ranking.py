"""The Triton kernels of the ranking losses against their reference: through the interpreter, on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from boxwright.kernels.entries import Entries

CASES = Path(__file__).with_name("fused_ranking_cases.py")


def run(*arguments: str) -> str:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run([sys.executable, CASES, *arguments], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_some_cases_through_the_interpreter() -> None:
    pytest.importorskip("triton")
    assert "4 cases agree" in run("few")


@pytest.mark.slow
def test_all_cases_through_the_interpreter() -> None:
    pytest.importorskip("triton")
    assert "20 cases agree" in run()


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
