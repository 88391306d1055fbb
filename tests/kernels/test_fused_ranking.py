"""The Triton kernels of the ranking losses against their reference: through the interpreter, on a CPU."""

import pytest

from interpreted_cases import run_cases


def test_some_cases_through_the_interpreter() -> None:
    assert "4 cases agree" in run_cases("fused_ranking_cases.py", "few")


@pytest.mark.slow
def test_all_cases_through_the_interpreter() -> None:
    assert "22 cases agree" in run_cases("fused_ranking_cases.py")
