"""Every box loss through `check_criterion`: finite, connected, a true gradient, all dtypes, save and load, compile."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from boxwright import losses
from boxwright.testing import check_criterion, random_problem
from boxwright.testing.subject import Subject

LOSSES: list[nn.Module] = [
    losses.L1Loss(),
    losses.SmoothL1Loss(beta=0.5),
    losses.SigmaSmoothL1Loss(sigma=3.0),
    losses.BalancedL1Loss(),
    losses.IoULoss(),
    losses.IoULoss(form="square"),
    losses.IoULoss(form="log"),
    losses.GIoULoss(),
    losses.GIoULoss(version="torchvision"),
    losses.DIoULoss(),
    losses.CIoULoss(version="classic"),
    losses.EIoULoss(),
    losses.SIoULoss(),
    losses.MPDIoULoss(),
    losses.BoundedIoULoss(),
    losses.NormalizedWassersteinLoss(),
    losses.GaussianLoss(),
    losses.DistributionFocalLoss(),
    losses.FineGrainedLocalizationLoss(bins=8),
]
# the factor of the aspect term, and Wise-IoU's focus, carry no gradient on purpose
DETACHED: list[nn.Module] = [losses.CIoULoss(), losses.CIoULoss(version="torchvision"), losses.WiseIoULoss()]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_loss_is_sound(loss: nn.Module) -> None:
    check_criterion(loss, compile=False)


@pytest.mark.parametrize("loss", DETACHED, ids=repr)
def test_partly_detached_loss_is_sound(loss: nn.Module) -> None:
    check_criterion(loss, gradcheck=False, compile=False, processes=False, pointwise=not list(loss.buffers()))


@pytest.mark.parametrize("loss", [*LOSSES, *DETACHED, losses.GHMRLoss()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_the_inputs_decide_the_dtype(loss: nn.Module, dtype: torch.dtype) -> None:
    subject = Subject.of(loss)
    problem = random_problem(subject.kind).to(dtype)
    expected = torch.promote_types(dtype, torch.float32)
    for targets in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        rounded = problem.targets.to(targets)
        value = subject.value_and_gradient(replace(problem, targets=rounded))[0]
        assert value.dtype == expected
        # whatever the targets lose by their dtype, nothing is lost by computing in it
        wide = subject.value_and_gradient(replace(problem, targets=rounded.to(expected)))[0]
        torch.testing.assert_close(value, wide, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [*LOSSES, *DETACHED, losses.GHMRLoss()], ids=repr)
def test_weights_and_targets_that_do_not_fit_are_named(loss: nn.Module) -> None:
    problem = random_problem(Subject.of(loss).kind)
    with pytest.raises(ValueError, match=r"weight has shape \(2, 3\)"):
        loss(problem.inputs, problem.targets, weight=torch.ones(2, 3))
    if loss.space == "boxes":
        with pytest.raises(ValueError, match=r"last dimension must be 4, got inputs of shape \(2, 8\)"):
            loss(torch.ones(2, 8), torch.ones(2, 8))
    if loss.space != "distribution":  # where whole bins may be integers
        with pytest.raises(TypeError, match=r"targets must be floating point, got torch.int64 of shape \(2, 12, 4\)"):
            loss(problem.inputs, problem.targets.long())


@pytest.mark.parametrize("loss", [*LOSSES, *DETACHED], ids=repr)
@pytest.mark.parametrize("count", [None, 7], ids=["one box", "boxes"])
def test_what_is_added_up_is_the_elements(loss: nn.Module, count: int | None) -> None:
    """Chunks may never see elements, and one box needs no dimension."""
    elementwise, reduced = copy.deepcopy(loss).eval(), copy.deepcopy(loss).eval()
    elementwise.reduction = "none"
    usual = random_problem(Subject.of(loss).kind)
    parts = (usual.inputs, usual.targets, usual.options["weight"])
    inputs, targets, weight = (part.flatten(0, 1)[0 if count is None else slice(count)] for part in parts)
    inputs.requires_grad_()
    plain = elementwise(inputs, targets)
    for weights in (weight, torch.rand(plain.shape)):
        elements = elementwise(inputs, targets, weight=weights)
        spread = weights if weights.ndim == plain.ndim else weights.unsqueeze(-1)
        torch.testing.assert_close(elements, plain * spread)
        images = elements.flatten(1).sum(1) if elements.ndim > 1 else elements
        for reduction, normalizer, expected in (
            ("sum", None, elements.sum()),
            ("mean", None, elements.mean()),
            ("mean", 3.0, elements.sum() / 3),
            ("image", 3.0, images / 3),
        ):
            reduced.reduction = reduction
            value = reduced(inputs, targets, weight=weights, normalizer=normalizer)
            torch.testing.assert_close(value, expected)
            slopes = [torch.autograd.grad(each.sum(), inputs, retain_graph=True)[0] for each in (value, expected)]
            torch.testing.assert_close(slopes[0], slopes[1])


# one of each kind: compiling takes seconds
COMPILED: list[nn.Module] = [
    losses.SmoothL1Loss(),
    losses.GIoULoss(),
    losses.CIoULoss(),
    losses.SIoULoss(),
    losses.WiseIoULoss(),
    losses.DistributionFocalLoss(),
    losses.FineGrainedLocalizationLoss(bins=8),
]


@pytest.mark.slow
@pytest.mark.parametrize("loss", COMPILED, ids=repr)
def test_loss_compiles_and_runs_on_two_processes(loss: nn.Module) -> None:
    check_criterion(loss, gradcheck=False, pointwise=not list(loss.buffers()))
