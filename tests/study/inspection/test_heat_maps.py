"""Maps over the grids, written as bytes."""

import base64

import numpy as np
import pytest
import torch

from boxwright.boxes import AnchorGenerator, PointGenerator
from boxwright.structures import Predictions
from boxwright.study.inspection.heat_maps import grids, heat_map, score_maps

POINTS = PointGenerator((8.0, 16.0))([(4, 6), (2, 3)])
ANCHORS = AnchorGenerator.retinanet((8,), octave_base=2.0, scales_per_octave=1, ratios=(1.0, 2.0), offset=0.5)([(2, 2)])


def values_of(found):
    cells = np.frombuffer(base64.b64decode(found["cells"]), np.uint8)
    return found["most"] * (cells / 255.0) ** 2


def test_values_come_back_within_a_step():
    values = torch.rand(len(POINTS))
    found = values_of(heat_map(values, POINTS, most=1.0))
    np.testing.assert_allclose(np.sqrt(found), values.sqrt().numpy(), atol=0.5 / 255 + 1e-6)
    small = heat_map(values * 1e-4, POINTS)
    assert small["most"] == pytest.approx(1e-4 * float(values.max()), rel=1e-4)
    np.testing.assert_allclose(values_of(small), values.numpy() * 1e-4, atol=1e-6)


def test_the_priors_of_a_cell_are_summed_or_their_largest_is_taken():
    values = torch.arange(8.0)
    np.testing.assert_allclose(values_of(heat_map(values, ANCHORS, most=13)), [1, 3, 5, 7], atol=0.06)
    np.testing.assert_allclose(values_of(heat_map(values, ANCHORS, total=True)), [1, 5, 9, 13], atol=0.06)


def test_nothing_is_dark():
    assert values_of(heat_map(torch.zeros(len(POINTS)), POINTS)).max() == 0


def test_scores_have_a_map_for_every_class_that_is_there():
    logits = torch.full((1, len(POINTS), 3), -20.0)
    logits[0, 7, 2] = 20.0
    maps = score_maps(Predictions(logits, logits), POINTS, torch.tensor([2, 0, 2]))
    assert sorted(maps) == ["0", "2", "any"]
    assert values_of(maps["2"]).argmax() == values_of(maps["any"]).argmax() == 7
    assert values_of(maps["0"]).max() < 0.01


def test_grids_say_where_cells_lie():
    assert grids(POINTS) == [[4, 6, 8.0, 0.5], [2, 3, 16.0, 0.5]]
