"""Every box loss through `check_criterion`: finite, connected, a true gradient, all dtypes, save and load, compile."""

import pytest
from torch import nn

from boxwright import losses
from boxwright.testing import check_criterion

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
