"""The loss under test, whatever it is: a module, a function, ours or somebody else's."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from boxwright.errors import MissingPackageError
from boxwright.testing.problems import Kind, Problem

__all__ = ["Subject", "claim"]

SPACES: dict[str, Kind] = {
    "boxes": "boxes",
    "deltas": "deltas",
    "gaussian": "gaussian",
    "distribution": "distribution",
}


@dataclass(frozen=True, eq=False)
class Subject:
    """A loss with its name, what it compares and the options that it accepts."""

    loss: Callable[..., Tensor]
    name: str
    kind: Kind
    accepted: frozenset[str]
    probabilities: bool

    @classmethod
    def of(cls, criterion: Callable[..., Tensor], kind: Kind | None = None) -> "Subject":
        """Read the signature; a function with a `reduction` is tried with "mean"."""
        if isinstance(criterion, type):
            raise ValueError(f"pass an object, {criterion.__name__}(), instead of the class")
        call = criterion.forward if isinstance(criterion, nn.Module) else criterion
        parameters = inspect.signature(call).parameters
        accepted = frozenset(
            name for name, parameter in parameters.items() if parameter.annotation not in (None, "None")
        )
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            accepted |= {"scores", "weight", "normalizer"}
        name = getattr(criterion, "__name__", type(criterion).__name__)
        if kind is None:
            kind = SPACES.get(getattr(criterion, "space", ""), "labels" if "scores" in accepted else None)
        if kind is None or kind not in get_args(Kind):
            choices = ", ".join(map(repr, get_args(Kind)))
            raise ValueError(f"cannot tell what {name} compares (kind={kind!r}): pass kind=, one of {choices}")
        from_logits = getattr(criterion, "from_logits", True)
        return cls(criterion, name, kind, accepted, probabilities=not from_logits)

    @property
    def module(self) -> nn.Module | None:
        """The module, where the loss is one."""
        return self.loss if isinstance(self.loss, nn.Module) else None

    @property
    def stateful(self) -> bool:
        """Whether the loss has buffers or parameters that are saved with it."""
        return self.module is not None and bool(self.module.state_dict())

    def fresh(self, **attributes: Any) -> Callable[..., Tensor]:
        """Return a copy in its first state, with some attributes changed."""
        loss = copy.deepcopy(self.loss)
        for name, value in attributes.items():
            setattr(loss, name, value)
        return loss

    def __call__(self, problem: Problem, loss: Callable[..., Tensor] | None = None) -> Tensor:
        """Return the scalar loss of a problem (of a fresh copy, so that no call sees the state left by another)."""
        problem = problem.only(self.accepted)
        options: dict[str, Any] = dict(problem.options)
        if self.module is None and "reduction" in self.accepted:
            options["reduction"] = "mean"
        call = self.fresh() if loss is None else loss
        result = call(problem.inputs, problem.targets, **options)
        if not isinstance(result, Tensor):
            raise AssertionError(f"{self.name} must return a tensor, it returned {type(result).__name__}")
        return result.sum()

    def value_and_gradient(self, problem: Problem, loss: Callable[..., Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return the loss and its gradient with respect to the inputs."""
        inputs = problem.inputs.detach().clone().requires_grad_()
        trial = replace(problem, inputs=inputs)
        value = self._without_error(trial) if loss is None else self(trial, loss)
        claim(value.requires_grad, f"{self.name} ({problem.note}): the loss is not connected to its inputs")
        (gradient,) = torch.autograd.grad(value, inputs, allow_unused=True)
        if gradient is None:
            raise AssertionError(f"{self.name} ({problem.note}): the loss does not depend on its inputs")
        return value.detach(), gradient

    def _without_error(self, problem: Problem) -> Tensor:
        try:
            return self(problem)
        except (AssertionError, MissingPackageError):
            raise
        except Exception as error:
            where = f"{self.name} ({problem.note}, {problem.inputs.dtype})"
            raise AssertionError(f"{where} raises {type(error).__name__}: {error}") from error


def claim(holds: bool | Tensor, complaint: str) -> None:
    """Raise AssertionError unless something holds; also under `python -O`, which leaves out `assert`."""
    if not holds:
        raise AssertionError(complaint)
