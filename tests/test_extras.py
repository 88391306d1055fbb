"""A base installation: what it offers, and what it says about the rest."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from boxwright.assigners import HungarianAssigner
from boxwright.errors import BoxwrightError
from boxwright.extras import needs_extra
from boxwright.testing import check_assigner

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("train", "export", "ray", "slurm")
PACKAGES = {"PIL": "pillow", "yaml": "pyyaml"}
# torch brings triton, torchvision pillow, pydantic its core, timm the hub
BROUGHT = {"triton", "pillow", "pydantic_core", "huggingface_hub"}


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


def test_importing_a_part_of_the_trainer_says_what_to_install():
    packages = ("data", "engine", "models", "recipes", "study")
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({sorted(_others() - {"torch", "triton", "numpy"})}))
for package in {packages}:
    try:
        importlib.import_module("boxwright." + package)
    except ImportError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = result.stdout.splitlines()
    assert len(said) == len(packages)
    for line in said:
        assert re.fullmatch(
            r"this needs the package '.+', which is not installed: pip install \"boxwright\[train\]\"", line
        )


def test_the_hungarian_assigner_says_what_its_solver_needs_and_does_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(BoxwrightError, match=r"needs the package 'scipy.optimize'.*boxwright\[train\]"):
        check_assigner(HungarianAssigner(), waits=True, compile=False)
    check_assigner(HungarianAssigner(solver="batched"), scenes=1, waits=True, compile=False)


def test_every_package_that_is_imported_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][name] for name in EXTRAS)]
    asked = {re.split(r"[^\w-]", line)[0].lower().replace("-", "_") for lines in lists for line in lines}
    assert {PACKAGES.get(name, name) for name in _others()} <= asked | BROUGHT


def test_criteria_need_torch_alone():
    missing = _others() - {"torch", "triton", "numpy"}
    assert {"torchvision", "pydantic", "timm", "scipy"} <= missing
    code = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(missing)}))
import boxwright.criteria
from boxwright.assigners import ATSSAssigner
from boxwright.losses import SigmoidFocalLoss
from boxwright.testing import check_assigner, check_criterion
check_criterion(SigmoidFocalLoss(), compile=False)
check_assigner(ATSSAssigner(), scenes=2, compile=False)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def _others() -> set[str]:
    """Packages of others that are imported anywhere in the source."""
    modules = {
        name.split(".")[0]
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imported(node)
    }
    return modules - set(sys.stdlib_module_names) - {"boxwright"}


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_importing_boxwright_imports_nothing_else():
    code = (
        "import boxwright, sys; print([name for name in sys.modules if name in ('torch', 'numpy', 'timm', 'pydantic')])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
