"""The Triton kernel against its reference: through the interpreter everywhere, and on a GPU where one is at hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CASES = Path(__file__).with_name("fused_cases.py")


def run(device: str, interpret: bool) -> str:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0"}
    result = subprocess.run([sys.executable, CASES, device], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def test_kernel_through_the_interpreter() -> None:
    pytest.importorskip("triton")
    assert "48 cases agree" in run("cpu", interpret=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
def test_kernel_on_the_gpu() -> None:
    assert "48 cases agree" in run("cuda", interpret=False)
