"""`check_criterion`: what a loss must survive before anybody should train with it."""

import doctest
import inspect
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.testing.direction import check_direction
from boxwright.testing.influence import check_influence, check_scores
from boxwright.testing.problems import Kind, Problem, hostile_problems, random_problem
from boxwright.testing.processes import check_two_processes
from boxwright.testing.subject import Subject, claim
from boxwright.testing.waiting import check_never_waits

__all__ = ["check_criterion"]

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# relative and absolute tolerance of the loss against float64
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}


def check_criterion(
    criterion: Callable[..., Tensor],
    *,
    kind: Kind | None = None,
    reference: Callable[..., Tensor] | None = None,
    gradcheck: bool = True,
    pointwise: bool = True,
    waits: bool = False,
    compile: bool = True,
    processes: bool = True,
    seed: int = 0,
) -> None:
    """Check that a loss is right, finite, connected, and behaves the same in every setting; say what is not.

    Tried are: an independent float64 reference, gradcheck, degenerate inputs in four dtypes, weights and normaliser,
    whether the labelled class is to rise and background to fall and a perfect box is the best, autocast, inputs left
    untouched, wrong shapes, whether loss or running values hang on ignored priors, or boxes of weight 0, on the order
    of the batch or on the calls before (in evaluation mode), waiting for a CUDA device (it need not be there, see
    `check_never_waits`), `torch.compile(fullgraph=True)` without recompiling when the objects change, save and load,
    two processes against one (a loss with buffers), and the examples of the docstring.

    Args:
        criterion: a module or function `criterion(inputs, targets, …)`; options that it does not name (`scores`,
            `weight`, `normalizer`), or that it takes as `None` only (`weight: None = None`), are left out.
        kind: what it compares, see `boxwright.testing.random_problem`; read from the attribute `space` or from an
            argument `scores` where None.
        reference: the same written independently, called with the inputs, the targets and the options that the
            criterion names, and compared in float64 on a random problem.
        gradcheck: whether the gradient is the derivative of the loss (not so for error-driven or detached losses).
        pointwise: whether priors do not influence each other (not so for ranking losses and running statistics), and
            every soft target counts.
        waits: whether it may wait for the device, as one that indexes by a mask does.
        compile: whether to compile it, which takes seconds.
        processes: whether to start two processes for a loss with buffers, which takes seconds. They import the loss,
            so that its file must hold no calls but below `if __name__ == "__main__":`.
        seed: of the random problems.

    Raises:
        AssertionError: with the name of the loss, the problem and what is wrong.
        ValueError: `kind` is needed and not given, or the criterion is a class instead of an object.
        RuntimeError: the two processes cannot import the loss, such as one of a notebook.

    >>> from boxwright.losses import SigmoidFocalLoss
    >>> check_criterion(SigmoidFocalLoss(), compile=False)
    """
    subject = Subject.of(criterion, kind)
    usual = random_problem(subject.kind, seed, probabilities=subject.probabilities)
    _check_untouched(subject, usual)
    _check_finite(subject, usual)
    if reference is not None:
        _check_reference(subject, usual, reference)
    for problem in hostile_problems(subject.kind, seed, subject.probabilities):
        for dtype in DTYPES:
            _check_finite(subject, problem.to(dtype))
    _check_dtypes(subject, usual)
    check_direction(subject, usual)
    check_influence(subject, usual, seed)
    _check_nothing(subject, usual)
    if gradcheck:
        _check_gradient(subject, usual)
    if pointwise:
        check_scores(subject, usual)
        _check_options(subject, usual)
    _check_saved(subject, usual)
    _check_shapes(subject, usual)
    _check_examples(subject)
    if not waits:
        _check_waiting(subject, usual.to(torch.float32).only(subject.accepted))
    if compile:
        _check_compiled(subject, usual, seed)
    if processes and subject.stateful:
        check_two_processes(subject, random_problem(subject.kind, seed, images=4, probabilities=subject.probabilities))


def _check_reference(subject: Subject, problem: Problem, reference: Callable[..., Tensor]) -> None:
    expected = reference(problem.inputs, problem.targets, **problem.only(subject.accepted).options).sum()
    _assert_close(subject, problem, "differs from the reference", subject(problem), expected, 1e-9)


def _check_gradient(subject: Subject, problem: Problem) -> None:
    def loss(inputs: Tensor) -> Tensor:
        return subject(replace(problem, inputs=inputs))

    try:
        # where a tensor lies in memory may change the last bit of a vectorised sum
        torch.autograd.gradcheck(loss, problem.inputs.clone().requires_grad_(), nondet_tol=1e-12)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].rstrip(",")
        what = "the gradient is not the derivative of the loss, or something is detached (gradcheck=False if meant so)"
        raise AssertionError(f"{subject.name}: {what}: {reason}") from error


def _check_finite(subject: Subject, problem: Problem) -> None:
    where = f"{subject.name} ({problem.note}, {problem.inputs.dtype})"
    value, gradient = subject.value_and_gradient(problem)
    bad = ~gradient.isfinite()
    said = [] if value.isfinite() else [f"the loss is {value.item()}"]
    if bad.any():
        row = tuple(bad.nonzero()[0].tolist())[: 2 if problem.inputs.ndim > 1 else 1]
        pair = f"input {problem.inputs[row].tolist()} and target {problem.targets[row].tolist()}"
        said.append(f"{int(bad.sum())} gradients are not finite, the first for {pair}")
    claim(not said, f"{where}: {'; '.join(said)}")
    if problem.inputs.numel() == 0:
        claim(value == 0, f"{where}: the loss of nothing is {value.item()} instead of 0")


def _check_dtypes(subject: Subject, problem: Problem) -> None:
    for dtype in DTYPES:
        # what the input loses by rounding is not the fault of the loss
        rounded = problem.to(dtype)
        expected = subject(rounded.to(torch.float64))
        value = subject(rounded)
        _assert_close(subject, rounded, f"in {dtype} differs from float64", value, expected, TOLERANCE[dtype])
        usual_dtype = value.dtype in (torch.promote_types(dtype, torch.float32), dtype)
        claim(usual_dtype, f"{subject.name}: inputs of {dtype} give a loss of {value.dtype}")
    usual = problem.to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = subject(usual)
    _assert_close(subject, usual, "changes inside autocast", inside, subject(usual), TOLERANCE[torch.float32])


def _check_nothing(subject: Subject, problem: Problem) -> None:
    """All ignored, or all weights 0: no loss and no gradient, but connected."""
    nothing = []
    if subject.kind == "labels":
        nothing.append(replace(problem, targets=torch.full_like(problem.targets, -2), note="all ignored"))
    if "weight" in subject.accepted:
        weight = torch.zeros_like(problem.options["weight"])
        nothing.append(replace(problem, options=problem.options | {"weight": weight}, note="all weights 0"))
    for silent in nothing:
        value, gradient = subject.value_and_gradient(silent)
        claim(value == 0, f"{subject.name} ({silent.note}): the loss is {value.item()} instead of 0")
        claim(not gradient.any(), f"{subject.name} ({silent.note}): the gradient is not 0")


def _check_untouched(subject: Subject, problem: Problem) -> None:
    before = pickle.dumps((problem.inputs, problem.targets, problem.options))
    first = subject.value_and_gradient(problem)
    subject(problem)  # above the inputs are a copy
    after = pickle.dumps((problem.inputs, problem.targets, problem.options))
    claim(before == after, f"{subject.name} changes its inputs, targets or options in place")
    second = subject.value_and_gradient(problem)
    same = all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in zip(first, second, strict=True))
    claim(same, f"{subject.name}: the same call gives two different results")


def _check_shapes(subject: Subject, problem: Problem) -> None:
    wrong = replace(problem, targets=torch.cat([problem.targets, problem.targets], dim=1), options={})
    shape = str(tuple(wrong.targets.shape))
    complaint = f"{subject.name}: inputs {tuple(wrong.inputs.shape)} with targets {shape} raise"
    try:
        subject(wrong)
    except (ValueError, TypeError) as error:
        named = shape in str(error)
        message = f"an error that does not name the shape: {error}"
    except Exception as error:
        named, message = False, f"{type(error).__name__} instead of ValueError: {error}"
    else:
        named, message = False, "nothing"
    claim(named, f"{complaint} {message}")


def _check_options(subject: Subject, problem: Problem) -> None:
    plain = subject(problem)
    if "normalizer" in subject.accepted:
        twice = problem.options | {"normalizer": problem.options["normalizer"] * 2}
        halved = subject(replace(problem, options=twice))
        _assert_close(subject, problem, "is not divided by the normalizer", halved * 2, plain, 1e-9)
        parts = sum((subject(problem[index : index + 1]) for index in range(len(problem.inputs))), torch.tensor(0.0))
        sums = "of a batch is not the sum over its images; is it divided by more than the normalizer, or not pointwise"
        _assert_close(subject, problem, sums, parts, plain, 1e-9)
    if {"weight", "normalizer"} <= subject.accepted:
        twice = problem.options | {"weight": problem.options["weight"] * 2}
        doubled = subject(replace(problem, options=twice))
        _assert_close(subject, problem, "is not proportional to the weight", doubled, plain * 2, 1e-9)
    if getattr(subject.loss, "reduction", None) == "mean":
        bare = replace(problem, options={k: v for k, v in problem.options.items() if k != "normalizer"})
        with_normalizer = plain * problem.options["normalizer"]
        elements = subject.fresh(reduction="none")
        _assert_close(subject, problem, "'none' and 'mean' disagree", subject(bare, elements), with_normalizer, 1e-9)
        images = subject.fresh(reduction="image")
        _assert_close(subject, problem, "'image' and 'mean' disagree", subject(bare, images), with_normalizer, 1e-9)


def _check_saved(subject: Subject, problem: Problem) -> None:
    if subject.module is None:
        return
    used = subject.fresh()
    subject(problem, used)
    assert isinstance(used, torch.nn.Module)
    loaded = subject.fresh()
    assert isinstance(loaded, torch.nn.Module)
    loaded.load_state_dict(pickle.loads(pickle.dumps(used.state_dict())))
    same = torch.equal(subject(problem, loaded), subject(problem, used))
    claim(same, f"{subject.name}: a loaded copy goes on differently; is a running value missing from the buffers?")


def _check_examples(subject: Subject) -> None:
    described = subject.loss if inspect.isfunction(subject.loss) else type(subject.loss)
    text = inspect.cleandoc(described.__doc__ or "")  # its own, not that of a base class
    namespace: dict[str, Any] = dict(vars(inspect.getmodule(described) or object))
    test = doctest.DocTestParser().get_doctest(text, namespace, subject.name, None, 0)
    said: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(test, out=said.append).failed
    claim(not failed, f"{subject.name}: the example of its docstring fails:\n{''.join(said)}")


def _check_waiting(subject: Subject, problem: Problem) -> None:
    try:
        check_never_waits(_Call(subject, problem), problem.inputs, problem.targets, *problem.options.values())
    except AssertionError as error:
        raise AssertionError(f"{subject.name}: {error}") from error


class _Call(nn.Module):
    """The loss of a problem as a function of its tensors alone."""

    def __init__(self, subject: Subject, problem: Problem) -> None:
        super().__init__()
        self.subject, self.problem, self.loss = subject, problem, subject.fresh()

    def forward(self, inputs: Tensor, targets: Tensor, *options: Tensor) -> Tensor:
        named = dict(zip(self.problem.options, options, strict=True))
        return self.subject(replace(self.problem, inputs=inputs, targets=targets, options=named), self.loss)


def _check_compiled(subject: Subject, problem: Problem, seed: int) -> None:
    torch.compiler.reset()
    compiled, eager = torch.compile(subject.fresh(), fullgraph=True), subject.fresh()
    usual = problem.to(torch.float32)
    other = random_problem(subject.kind, seed + 1, probabilities=subject.probabilities).to(torch.float32)
    if subject.kind == "labels":
        other = replace(other, targets=torch.where(other.inputs[..., 0] < 1, -1, other.targets))
    for trial, recompiling_is_wrong in ((usual, False), (other, True)):
        try:
            with torch._dynamo.config.patch(error_on_recompile=recompiling_is_wrong):
                actual = subject.value_and_gradient(trial, compiled)
        except torch._dynamo.exc.TorchDynamoException as error:
            fault = "recompiles when the objects change" if recompiling_is_wrong else "does not compile in one graph"
            raise AssertionError(f"{subject.name} {fault}: {error}") from error
        expected = subject.value_and_gradient(trial, eager)
        for what, a, b in zip(("loss", "gradient"), actual, expected, strict=True):
            _assert_close(subject, problem, f"compiled gives another {what}", a, b, TOLERANCE[torch.float32])


def _assert_close(
    subject: Subject, problem: Problem, complaint: str, actual: Tensor, expected: Tensor, tolerance: float
) -> None:
    actual, expected = actual.detach().double(), expected.detach().double()
    if not torch.allclose(actual, expected, rtol=tolerance, atol=tolerance):
        gap = (actual - expected).abs().max().item()
        raise AssertionError(f"{subject.name} ({problem.note}): {complaint}, by {gap:.3g}")
