"""The Triton kernel against its reference: through the interpreter everywhere, and on a GPU where one is at hand."""

import pytest
import torch

from interpreted_cases import run_cases


def test_kernel_through_the_interpreter() -> None:
    assert "48 cases agree" in run_cases("fused_cases.py", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
def test_kernel_on_the_gpu() -> None:
    assert "48 cases agree" in run_cases("fused_cases.py", "cuda", interpret=False)
