"""What is made once is made again only where its tensors could not be used later."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from boxwright.assigners import ATSSAssigner
from boxwright.boxes import AnchorGenerator
from boxwright.structures import Targets
from boxwright.tables import kept


def test_a_table_is_made_once_for_each_argument():
    calls = []

    @kept
    def table(count: int) -> Tensor:
        calls.append(count)
        return torch.arange(count)

    assert table(3) is table(3)
    assert table(2).tolist() == [0, 1]
    assert calls == [3, 2]


def test_fake_tensors_do_not_stay():
    generator, cells = AnchorGenerator.square((11,)), [(3, 5)]
    boxes = torch.tensor([[0.0, 0.0, 40.0, 30.0]])
    targets = Targets.from_list([{"boxes": boxes, "labels": torch.tensor([0])}])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # as to count operations
        ATSSAssigner()(generator(cells), targets.map(mode.from_tensor))
    priors = generator(cells)
    assert type(priors.boxes) is Tensor
    assert ATSSAssigner()(priors, targets).positive.any()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert type(generator(cells).boxes) is not Tensor
