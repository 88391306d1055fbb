"""Runs the cases of a Triton kernel in a process of their own: the interpreter is chosen before Triton is imported."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CASES = Path(__file__).with_name("kernels")


def run_cases(script: str, *arguments: str, interpret: bool = True) -> str:
    """Return what a script of `tests/kernels` prints; skip where the interpreter cannot run."""
    command = [sys.executable, CASES / script, *arguments]
    result = subprocess.run(command, env=environment(interpret), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def environment(interpret: bool = True) -> dict[str, str]:
    """Return the variables of a process that interprets Triton kernels, or does not; skip where it cannot."""
    triton = pytest.importorskip("triton")
    if interpret and _refused(triton.__version__):
        pytest.skip(f"the interpreter of Triton {triton.__version__} does not know numpy {np.__version__}")
    return {**os.environ, "TRITON_INTERPRET": str(int(interpret))}


def _refused(version: str) -> bool:
    """Triton up to 3.6 makes loop bounds out of arrays of one element, which newer numpy raises for."""
    if tuple(map(int, version.split(".")[:2])) > (3, 6):
        return False
    try:
        int(np.zeros(1))
    except TypeError:
        return True
    return False
