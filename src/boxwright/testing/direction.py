"""Whether a loss asks for what its targets say."""

from dataclasses import replace

import torch
from torch.nn import functional

from boxwright.testing.problems import Problem
from boxwright.testing.subject import Subject, claim

__all__ = ["check_direction"]


def check_direction(subject: Subject, problem: Problem) -> None:
    """Check that a perfect box costs less than others, and that of undecided logits the labelled class is to rise.

    A forgotten minus, a column for background where there is none, and labels from 1 are found so.

    Raises:
        AssertionError: with the name of the loss and what is wrong.
    """
    if subject.kind in ("boxes", "deltas"):
        perfect, other = subject(replace(problem, inputs=problem.targets)), subject(problem)
        said = f"a perfect prediction costs {perfect.item():.3g}, a random one {other.item():.3g}"
        claim(perfect < other, f"{subject.name} ({problem.note}): {said}")
    if subject.kind not in ("labels", "dense"):
        return
    undecided = torch.full_like(problem.inputs, 0.5 if subject.probabilities else 0.0)
    _, gradient = subject.value_and_gradient(Problem("all logits alike", undecided, problem.targets))
    noise = 1e-9 * gradient.abs().amax()
    if subject.kind == "dense":
        wrong, rule = torch.where(problem.targets > 0, gradient, -gradient) > noise, "the target is 0 or above 0.6"
    else:
        # a softmax has one more column, for background
        first = getattr(subject.loss, "hyper", {}).get("background") == "first"
        gradient, classes = gradient[..., first : gradient.shape[-1] - 1 + first], gradient.shape[-1] - 1
        labelled = functional.one_hot(problem.targets.clamp(min=0), classes).bool() & (problem.targets >= 0)[..., None]
        wrong, rule = torch.where(labelled, gradient, -gradient) > noise, "column c is class c, label -1 is background"
    if wrong.any():
        image, prior, column = wrong.nonzero()[0].tolist()
        side = "raises" if gradient[image, prior, column] > 0 else "lowers"
        target = problem.targets[image, prior].tolist()
        raise AssertionError(
            f"{subject.name}: a larger logit of class {column} {side} the loss of a prior with target {target} ({rule})"
        )
