"""The Triton kernels of the ranking losses against their reference: through the interpreter, on a CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    assert "22 cases agree" in run()
