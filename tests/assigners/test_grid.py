"""The search on grids against the search over all priors, exact ties included."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from boxwright.assigners.grid import nearest_priors
from boxwright.boxes import AnchorGenerator


@pytest.mark.parametrize("per_cell", [False, True])
@given(
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    st.sampled_from([(8, 16, 32), (7.5, 13, 50)]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 2, 5, 9, 15]),
    st.sampled_from([0.25, 4, 100]),
    st.integers(0, 10**6),
)
def test_nearest_priors(per_cell, size, strides, offset, anchors, k, step, seed):
    height, width = size
    shapes = tuple(tuple((2.0 * s, 2.0 * s + a) for a in range(anchors)) for s in strides)
    sizes = [(-(-height // 2**level), -(-width // 2**level)) for level in range(3)]
    priors = AnchorGenerator(strides, shapes, offset)(sizes)
    # multiples of a step: many centres lie on grid lines or half way between; some outside the image, or far from it
    centers = torch.randint(-40, 60, (2, 20, 2), generator=torch.Generator().manual_seed(seed)) * float(step)
    expected, start = [], 0
    for level in priors.levels:
        cells = priors.centers[start : start + level.size : level.per_cell]
        order = (cells - centers.unsqueeze(-2)).square().sum(-1).sort(dim=-1, stable=True).indices
        members = (order.unsqueeze(-1) * anchors + torch.arange(anchors)).flatten(-2) + start
        expected.append(members[..., : k * anchors if per_cell else k])
        start += level.size
    assert torch.equal(nearest_priors(priors, centers, k, per_cell=per_cell), torch.cat(expected, dim=-1))
