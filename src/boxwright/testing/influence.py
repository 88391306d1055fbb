"""What a loss must not hang on: ignored priors, the order of a batch, and the calls before."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from boxwright.testing.problems import Problem, random_problem
from boxwright.testing.subject import Subject, claim

__all__ = ["check_influence", "check_scores"]


def check_influence(subject: Subject, problem: Problem, seed: int) -> None:
    """Check that neither the loss nor a running value hangs on what it must not hang on.

    A ranking and a running mean may look at all other priors, but not at ignored ones, nor at where a prior stands.

    Raises:
        AssertionError: with the name of the loss and what is wrong.
    """
    _check_order(subject, problem)
    _check_calls_before(subject, problem, random_problem(subject.kind, seed + 1, probabilities=subject.probabilities))
    if subject.kind == "labels":
        _check_left_out(subject, problem, problem.targets == -2, "ignored priors (label -2)")
    elif "weight" in subject.accepted:  # so a criterion tells box losses where there is no object
        some = torch.arange(problem.inputs.shape[1]).expand(problem.inputs.shape[:2]) % 3 == 0
        weight = problem.options["weight"].masked_fill(some, 0)
        weighed = replace(problem, options=problem.options | {"weight": weight})
        _check_left_out(subject, weighed, some, "priors of weight 0")


def check_scores(subject: Subject, problem: Problem) -> None:
    """Check that a loss which takes soft targets of the positives looks at them.

    Raises:
        AssertionError: with the name of the loss.
    """
    if subject.kind == "labels" and "scores" in subject.accepted:
        other = problem.options | {"scores": problem.options["scores"] / 2}
        seen = subject(problem) != subject(replace(problem, options=other))
        claim(seen, f"{subject.name}: takes scores=, soft targets of the positives, but does not look at them")


def _check_left_out(subject: Subject, problem: Problem, left_out: Tensor, what: str) -> None:
    """Check that a change of what some priors (B, L) predict changes nothing."""
    left_out = left_out.reshape(*left_out.shape, *[1] * (problem.inputs.ndim - 2))
    other = replace(problem, inputs=torch.where(left_out, problem.inputs / 2, problem.inputs))
    _check_same(subject, problem, other, what)


def _check_order(subject: Subject, problem: Problem) -> None:
    options = {name: value.flip(0, 1) if value.ndim else value for name, value in problem.options.items()}
    turned = replace(problem, inputs=problem.inputs.flip(0, 1), targets=problem.targets.flip(0, 1), options=options)
    _check_same(subject, problem, turned, "the order of images and priors")


def _check_calls_before(subject: Subject, problem: Problem, other: Problem) -> None:
    """In evaluation mode, where nothing runs, a call must leave nothing behind."""
    used, unused = subject.fresh(), subject.fresh()
    if not (isinstance(used, nn.Module) and isinstance(unused, nn.Module)):
        return
    used.eval()
    subject(other, used)
    for name, value in unused.state_dict().items():
        same = torch.equal(used.state_dict()[name], value)
        claim(same, f"{subject.name}: a call in evaluation mode changes {name!r}; running values move in training only")
    same = torch.equal(subject(problem, used), subject(problem, unused.eval()))
    claim(same, f"{subject.name}: in evaluation mode the loss hangs on the call before, which had other inputs")


def _check_same(subject: Subject, problem: Problem, other: Problem, what: str) -> None:
    (loss, state), (other_loss, other_state) = _after(subject, problem), _after(subject, other)
    claim(_close(loss, other_loss), f"{subject.name}: the loss hangs on {what}: {loss.item():.6g} or {other_loss:.6g}")
    for name, value in state.items():
        claim(_close(value, other_state[name]), f"{subject.name}: the running value {name!r} hangs on {what}")


def _after(subject: Subject, problem: Problem) -> tuple[Tensor, dict[str, Tensor]]:
    used = subject.fresh()
    loss = subject(problem, used)
    return loss, dict(used.state_dict()) if isinstance(used, nn.Module) else {}


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.detach().double(), b.detach().double(), rtol=1e-6, atol=1e-9, equal_nan=True)
