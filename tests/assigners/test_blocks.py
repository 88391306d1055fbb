"""Blocks of images and objects: every object once, in order, in bounded memory."""

from unittest import mock

import torch
from hypothesis import given
from hypothesis import strategies as st

from boxwright.assigners.blocks import BLOCK_ELEMENTS, blocks, clean_boxes
from boxwright.testing.waiting import host_may_not_look

SMALL = st.integers(0, 6)


@given(st.lists(SMALL, max_size=5), SMALL, st.integers(0, 40), st.integers(1, 300))
def test_every_object_is_in_one_block_of_bounded_size(counts, padding, priors, budget):
    objects = max(counts, default=0) + padding
    real = torch.arange(objects) < torch.tensor(counts, dtype=torch.int64).unsqueeze(1)  # (B, G)
    boxes = clean_boxes(torch.zeros(*real.shape, 4), real)
    with mock.patch.dict(BLOCK_ELEMENTS, cpu=budget):
        found = list(blocks(boxes, priors))
        with host_may_not_look():
            unseen = list(blocks(boxes, priors))
    for slices, wanted in ((found, real), (unseen, torch.ones_like(real))):
        times = torch.zeros_like(real, dtype=torch.int64)
        for images, some in slices:
            times[images, some] += 1
            assert times[images, some].numel() * priors <= max(budget, priors)
            assert some.stop <= wanted[images].sum(1).amax()  # nothing behind the last object
        assert (times[wanted] == 1).all()
        assert (times <= 1).all()
        starts = [(images.start, some.start) for images, some in slices]
        assert starts == sorted(starts)
        assert len(slices) <= 1 or real.numel() * max(priors, 1) > budget
