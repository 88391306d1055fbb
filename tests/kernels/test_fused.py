"""The Triton kernel against its reference: through the interpreter everywhere, and on a GPU where one is at hand.

And compiled for a GPU everywhere, so that what the interpreter takes and the compiler refuses is seen here.
"""

import pytest
import torch

from interpreted_cases import run_cases


def test_kernel_through_the_interpreter() -> None:
    assert "48 cases agree" in run_cases("fused_cases.py", "cpu")


def test_kernel_of_every_family_compiles_for_a_gpu() -> None:
    assert "2 kernels compile, in 38 variants" in run_cases("compiled_cases.py", "pointwise", interpret=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")
def test_kernel_on_the_gpu() -> None:
    assert "48 cases agree" in run_cases("fused_cases.py", "cuda", interpret=False)
