"""Reads the golden cases: what the original implementations compute, as data (`../shared/goldens`); compares."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwright.structures import Assignment, Targets

ROOT = Path(__file__).resolve().parents[2] / "shared" / "goldens"


class Case(dict[str, Tensor]):
    """Arrays of one golden file as tensors by name (strings stay numpy); `param` reads a hyper-parameter."""

    def param(self, name: str) -> Any:
        """Return the Python value of `param_<name>`."""
        return self[f"param_{name}"].item()


def golden_cases(folder: str) -> list[Any]:
    """List the cases of a folder such as "losses/ap_loss" for `pytest.mark.parametrize`; skipped where absent.

    The coverage test looks for this call with a literal folder name, so write the name out.
    """
    files = sorted((ROOT / folder).rglob("*.npz"))
    if not files:
        absent = pytest.mark.skip(reason="../shared/goldens is not beside this checkout")
        return [pytest.param(None, id=folder, marks=absent)]
    return [pytest.param(file, id=f"{folder}/{file.relative_to(ROOT / folder).with_suffix('')}") for file in files]


def golden_forms(cases: list[Any], forms: Iterable[str], array: str) -> list[Any]:
    """Pair cases with the forms whose `array`, such as "out_{}_labels", they hold; no form may be without a case."""
    held = {form: [] for form in forms}
    for case in cases:
        if case.values[0] is None:  # absent
            return [pytest.param(None, form, id=f"{case.id}-{form}", marks=case.marks) for form in held]
        with np.load(case.values[0], allow_pickle=False) as arrays:
            for form in held:
                if array.format(form) in arrays.files:
                    held[form].append(pytest.param(case.values[0], form, id=f"{case.id}-{form}"))
    assert all(held.values()), f"no case holds {[array.format(form) for form in held if not held[form]]}"
    return list(itertools.chain(*held.values()))


def with_background(labels: Tensor, classes: int) -> Tensor:
    """Labels with background as -1; the originals call it C."""
    return torch.where((labels >= 0) & (labels < classes), labels, -1)


def load_case(file: Path) -> Case:
    """Load one golden file."""
    with np.load(file, allow_pickle=False) as arrays:
        return Case(
            {
                name: torch.from_numpy(array) if array.dtype.kind in "biuf" else array
                for name, array in ((name, arrays[name]) for name in arrays.files)
            }
        )


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Compare with a golden array, whatever its shape."""
    torch.testing.assert_close(actual, expected.reshape(actual.shape), rtol=tolerance, atol=tolerance)


def gradient(loss: Tensor, inputs: Tensor) -> Tensor:
    """Gradient of a loss that may be differentiated again."""
    return torch.autograd.grad(loss, inputs, retain_graph=True)[0]


def positive_boxes(assignment: Assignment, targets: Targets) -> Tensor:
    """The box of the object of every positive prior, else zeros: (B, L, 4)."""
    return assignment.boxes(targets) * assignment.positive[..., None]
