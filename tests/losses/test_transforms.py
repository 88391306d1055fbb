"""The transforms of `torch.func` see every loss as ordinary operations."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from boxwright import losses
from boxwright.testing.problems import random_problem
from boxwright.testing.subject import Subject

CLASSES = 5
LOSSES: list[nn.Module] = [
    losses.SigmoidCrossEntropyLoss(),
    losses.SigmoidFocalLoss(),
    losses.QualityFocalLoss(),
    losses.VarifocalLoss(),
    losses.SoftmaxFocalLoss(),
    losses.SeesawLoss(CLASSES - 1).eval(),
    losses.GHMCLoss().eval(),
    losses.GIoULoss(),
    losses.CIoULoss(),
    losses.SIoULoss(),
    losses.BoundedIoULoss(),
    losses.BalancedL1Loss(),
    losses.GaussianLoss(),
    losses.DistributionFocalLoss(),
]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_gradients_and_images_by_transforms(loss: nn.Module, dtype: torch.dtype) -> None:
    subject = Subject.of(loss)
    problem = random_problem(subject.kind).to(dtype)
    inputs, targets, weight = problem.inputs, problem.targets, problem.options["weight"]
    scores = problem.options["scores"] if "scores" in subject.accepted else weight
    state = dict(copy.deepcopy(loss).named_buffers())

    def value(inputs: Tensor, targets: Tensor, weight: Tensor, scores: Tensor) -> Tensor:
        options = {"weight": weight, "scores": scores}
        return functional_call(
            loss, state, (inputs, targets), {n: options[n] for n in options if n in subject.accepted}
        )

    batch = inputs, targets, weight, scores
    _, expected = subject.value_and_gradient(problem.only(frozenset({"weight", "scores"}) & subject.accepted), loss)
    torch.testing.assert_close(grad(value)(*batch), expected)
    images = torch.stack([grad(value)(*image) for image in zip(*batch, strict=True)])
    torch.testing.assert_close(vmap(grad(value))(*batch), images)


OVERLAPS = [name for name in losses.__all__ if name.endswith("iou_loss") or name == "normalized_wasserstein_loss"]


@pytest.mark.parametrize("name", OVERLAPS)
def test_second_derivatives_are_finite_where_a_box_has_no_area(name: str) -> None:
    """As the boxes of what is matched with nothing have, whose weight of 0 would not hide a NaN."""
    boxes = torch.rand(6, 4).sort(dim=1).values * 50
    line = torch.cat([boxes[:, :2], boxes[:, :1], boxes[:, 3:]], dim=1)
    nothing = torch.zeros(6, 4)
    function = getattr(losses, name)
    versions = ("gated", "classic", "torchvision") if name == "ciou_loss" else (None,)
    for options in ({} if version is None else {"version": version} for version in versions):
        options |= {"mean": torch.tensor(0.5)} if name == "wise_iou_loss" else {}
        for inputs in (boxes, line, nothing):
            for targets in (boxes, line, nothing):
                inputs = inputs.clone().requires_grad_()
                loss = function(inputs, targets, reduction="sum", **options)
                (slope,) = torch.autograd.grad(loss, inputs, create_graph=True)
                (curve,) = torch.autograd.grad(slope.square().sum(), inputs)
                assert slope.isfinite().all()
                assert curve.isfinite().all()
