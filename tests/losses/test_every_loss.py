"""No loss escapes `check_criterion`, and hypothesis looks for inputs on which one of them is not finite."""

import copy
import importlib.util
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import boxwright.losses
from boxwright.testing import Problem, random_problem
from boxwright.testing.problems import EXTREME_DELTAS, EXTREME_LOGITS, EXTREME_SCORES, HOSTILE_BOXES
from boxwright.testing.subject import Subject
from other_defaults import other_defaults

# compares two predictions, not a prediction with a target: its tests are in test_distribution.py
APART = {"localization_distillation_loss"}


@cache
def modules() -> list[ModuleType]:
    """The other test files of this folder."""
    found = []
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        if file != Path(__file__) and "check_criterion(" in file.read_text():
            spec = importlib.util.spec_from_file_location(file.stem, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found.append(module)
    return found


def names(code: CodeType, module: ModuleType) -> Iterator[str]:
    """What a function of a module refers to, also through the module's own functions."""
    for name in code.co_names:
        yield name
        helper = vars(module).get(name)
        if inspect.isfunction(helper) and helper.__module__ == module.__name__ and helper.__code__ is not code:
            yield from names(helper.__code__, module)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from names(inner, module)


def leaves(values: Any) -> Iterator[Any]:
    """Elements of nested lists and tuples."""
    if isinstance(values, list | tuple):
        for value in values:
            yield from leaves(value)
    else:
        yield values


@cache
def through_the_tester() -> tuple[frozenset[str], tuple[nn.Module, ...]]:
    """What tests that call `check_criterion` refer to, and the modules that they are parametrized with."""
    seen, losses = set(), []
    for module in modules():
        for name, test in vars(module).items():
            if name.startswith("test") and "check_criterion" in test.__code__.co_names:
                seen |= set(names(test.__code__, module))
                arguments = [mark.args[1] for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
                losses += [value for value in leaves(arguments) if isinstance(value, nn.Module)]
    return frozenset(seen | {type(loss).__name__ for loss in losses}), tuple(losses)


def test_every_loss_goes_through_the_tester() -> None:
    names_, losses = through_the_tester()
    # a function is tested by its module, and a module by the function that it calls
    behind = set(names_) | {type(loss).function.__name__ for loss in losses if hasattr(type(loss), "function")}
    for name in boxwright.losses.__all__:
        cls = getattr(boxwright.losses, name)
        if isinstance(cls, type) and issubclass(cls, nn.Module):
            methods = [method for method in vars(cls).values() if inspect.isfunction(method)]
            called = {name for method in methods for name in method.__code__.co_names}
            behind |= called if name in names_ else {name} if called & names_ else set()
    public = {name for name in boxwright.losses.__all__ if name.endswith(("Loss", "_loss", "_entropy"))}
    missing = public - behind - APART - {"ClassificationLoss"}
    assert not missing, f"these losses do not go through check_criterion: {sorted(missing)}"


def values(pool: tuple[float, ...], low: float, high: float) -> st.SearchStrategy[float]:
    return st.sampled_from(pool) | st.floats(low, high, width=32)


LOGITS = values(EXTREME_LOGITS, -1e4, 1e4)
SCORES = values(EXTREME_SCORES, 0, 1)
DELTAS = values(EXTREME_DELTAS, -1e4, 1e4)
BOXES = st.sampled_from(list(HOSTILE_BOXES.values())) | st.tuples(*[st.floats(-1e5, 1e5, width=32)] * 4)


@st.composite
def problems(draw: st.DrawFn, kind: str, columns: int, probabilities: bool) -> Problem:
    """Up to two images of up to three priors each."""
    shape = (draw(st.integers(0, 2)), draw(st.integers(0, 3)))
    count = shape[0] * shape[1]

    def tensor(strategy: st.SearchStrategy[Any], *trailing: int) -> Tensor:
        size = count * torch.Size(trailing).numel()
        drawn = draw(st.lists(strategy, min_size=size, max_size=size))
        return torch.tensor(drawn, dtype=torch.float32).reshape(*shape, *trailing)

    if kind == "boxes":
        both = draw(st.lists(BOXES, min_size=2 * count, max_size=2 * count))
        pair = torch.tensor(both, dtype=torch.float32).reshape(2, *shape, 4)
        return Problem("hypothesis", pair[0], pair[1], {"weight": tensor(SCORES)})
    if kind in ("deltas", "gaussian"):
        inputs = tensor(DELTAS, 8 if kind == "gaussian" else 4)
        return Problem("hypothesis", inputs, tensor(DELTAS, 4), {"weight": tensor(SCORES)})
    if kind == "distribution":
        return Problem(
            "hypothesis", tensor(LOGITS, 4, 9), tensor(st.floats(-9, 9, width=32), 4), {"weight": tensor(SCORES)}
        )
    inputs = tensor(SCORES if probabilities else LOGITS, columns)
    labels = tensor(st.integers(-2, columns - 2)).long()
    return Problem("hypothesis", inputs, labels, {"scores": tensor(SCORES), "weight": tensor(SCORES)})


@pytest.mark.parametrize("loss", through_the_tester()[1], ids=repr)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_no_finite_input_gives_anything_else(loss: nn.Module, data: st.DataObject) -> None:
    subject = Subject.of(loss)
    problem = data.draw(problems(subject.kind, 5, subject.probabilities))
    value, gradient = subject.value_and_gradient(problem)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", through_the_tester()[1], ids=repr)
def test_torch_s_defaults_change_nothing(loss: nn.Module) -> None:
    subject = Subject.of(loss)
    problem = random_problem(subject.kind, probabilities=subject.probabilities).to(torch.float32)
    torch.manual_seed(0)
    expected, expected_gradient = subject.value_and_gradient(problem)
    with other_defaults():
        torch.manual_seed(0)
        value, gradient = subject.value_and_gradient(problem)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [*through_the_tester()[1], boxwright.losses.ALRPLoss(period=1)], ids=repr)
def test_what_was_seen_in_inference_mode_does_not_stop_a_training(loss: nn.Module) -> None:
    subject = Subject.of(loss, None if hasattr(loss, "space") else "labels")
    problem = random_problem(subject.kind, probabilities=subject.probabilities).to(torch.float32)
    boxes = (
        (torch.rand(problem.targets.shape, requires_grad=True),) if isinstance(loss, boxwright.losses.ALRPLoss) else ()
    )
    used = copy.deepcopy(loss)
    with torch.inference_mode():
        used(problem.inputs.clone(), problem.targets.clone(), *boxes)
    inputs = problem.inputs.requires_grad_()
    result = used(inputs, problem.targets, *boxes)
    (gradient,) = torch.autograd.grad(sum(result) if boxes else result.sum(), inputs)
    assert gradient.any()
