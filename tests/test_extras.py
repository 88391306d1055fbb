"""A base installation: what it offers, and what it says about the rest."""

import subprocess
import sys

import pytest

from boxwright.errors import BoxwrightError
from boxwright.extras import needs_extra


def test_missing_package_is_named_with_its_extra():
    with (
        pytest.raises(BoxwrightError, match=r"needs the package 'nothing_like_it'.*boxwright\[train\]"),
        needs_extra("train"),
    ):
        import nothing_like_it  # noqa: F401


def test_a_defect_of_ours_is_not_taken_for_a_missing_package():
    with pytest.raises(ModuleNotFoundError, match=r"boxwright\.nowhere"), needs_extra("train"):
        import boxwright.nowhere  # noqa: F401


def test_load_says_what_to_install():
    code = "import sys; sys.modules['safetensors'] = None; import boxwright; boxwright.load('run')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(
        "this needs the package 'safetensors', which is not installed: pip install \"boxwright[train]\""
    )


def test_importing_boxwright_imports_nothing_else():
    code = (
        "import boxwright, sys; print([name for name in sys.modules if name in ('torch', 'numpy', 'timm', 'pydantic')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
