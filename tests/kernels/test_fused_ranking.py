"""The Triton kernels of the ranking losses without a GPU: interpreted, against their reference, and compiled."""

import pytest

from interpreted_cases import run_cases


def test_some_cases_through_the_interpreter() -> None:
    assert "3 cases agree" in run_cases("fused_ranking_cases.py", "few")


@pytest.mark.slow
def test_all_cases_through_the_interpreter() -> None:
    assert "37 cases agree" in run_cases("fused_ranking_cases.py")


def test_all_kernels_compile_for_a_gpu() -> None:
    assert "10 kernels compile" in run_cases("compiled_cases.py", "ranking", interpret=False)
