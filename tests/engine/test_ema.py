"""The average against its recursion written out."""

import copy

import torch
from torch import nn

from boxwright.engine.ema import ModelEMA


def test_average_follows_the_recursion():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = ModelEMA(module, decay=0.9)
    expected = copy.deepcopy(module.state_dict())
    for step in range(1, 30):
        with torch.no_grad():
            for value in module.state_dict().values():
                value.add_(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            mixed = decay * expected[name] + (1 - decay) * value
            expected[name] = mixed if value.is_floating_point() else value.clone()
        ema.update(module)
    for name, value in ema.detector.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
    assert not ema.detector.training
    assert not any(parameter.requires_grad for parameter in ema.detector.parameters())
