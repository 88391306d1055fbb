"""Suspicious annotations: which reasons an object has, and in what order they come."""

import pytest
import torch

from boxwright.study.inspection.inputs import Inputs
from boxwright.study.inspection.suspects import REASONS, Suspects, _dealt
from certain_sides import certain_sides

DOUBLE, CLASS, UNSEEN, ELSEWHERE, PEAKS, FLAT = range(len(REASONS))


@pytest.fixture
def inputs(data):
    return Inputs.of(data.split("train"), 64)  # half of the stored size; objects 2 and 3 are one cell boxed twice


@pytest.fixture
def sides(inputs):
    return certain_sides(inputs)


def reasons_of(found):
    return {(row, column) for row, column in found.reasons.nonzero().tolist()}


def test_nothing_speaks_against_what_is_predicted_as_it_was_drawn_but_a_second_box(inputs, sides):
    found = Suspects.of(inputs, sides, 0.6)
    assert reasons_of(found) == {(2, DOUBLE), (3, DOUBLE)}
    assert found.order.tolist()[:2] == [2, 3]
    assert sorted(found.order.tolist()) == list(range(len(inputs)))
    # the two boxes are shifted by 1 px of 32
    assert float(found.twin[2]) == pytest.approx(31 / 33, abs=1e-5)
    assert reasons_of(Suspects.of(inputs, sides, 0.95)) == set()


def test_a_box_of_another_class_at_the_same_place_is_no_double(inputs, sides):
    inputs.labels[3] = 1 - inputs.labels[3]
    assert reasons_of(Suspects.of(inputs, sides, 0.6)) == set()


@pytest.mark.parametrize(
    ("row", "spoil", "reason"),
    [
        (0, lambda s: s.rival.__setitem__(0, 0.81), CLASS),
        (1, lambda s: s.seen.__setitem__(1, 0.29), UNSEEN),
        (0, lambda s: s.boxes[0].add_(torch.tensor([0.0, 0.0, 8.5, 0.0])), ELSEWHERE),  # of 32
        (0, lambda s: s.probability[0, 1].copy_(torch.tensor([0.06, 0, 0.94, 0, 0])), PEAKS),
        (4, lambda s: s.probability[4, 3].copy_(torch.tensor([0, 0, 0.5, 0, 0.5])), FLAT),  # over 2.5 px
    ],
)
def test_each_reason_has_its_own_sign(inputs, sides, row, spoil, reason):
    assert row not in (2, 3)
    spoil(sides)
    assert (row, reason) in reasons_of(Suspects.of(inputs, sides, 0.95))
    assert {entry for entry in reasons_of(Suspects.of(inputs, sides, 0.95)) if entry[0] != row} == set()


def test_just_within_the_limits_is_no_reason(inputs, sides):
    sides.rival[0] = 0.79
    sides.seen[1] = 0.31
    sides.boxes[0] += torch.tensor([0.0, 0.0, 7.5, 0.0])
    sides.probability[0, 1] = torch.tensor([0.04, 0, 0.96, 0, 0])
    assert reasons_of(Suspects.of(inputs, sides, 0.95)) == set()


def test_sides_of_a_box_that_is_not_the_objects_say_nothing(inputs, sides):
    sides.boxes[0] += 20
    sides.probability[0, 1] = torch.tensor([0.5, 0, 0, 0, 0.5])
    sides.iou[0], sides.seen[0] = 0.4, 0
    assert reasons_of(Suspects.of(inputs, sides, 0.95)) == {(0, UNSEEN)}


def test_the_lists_of_reasons_are_dealt_out_in_turn():
    #                         two lists: a, b
    measures = torch.tensor([[0.9, 0.0], [0.8, 0.7], [0.1, 0.9], [0.2, 0.1], [0.1, 0.2], [0.7, 0.0]])
    reasons = measures > 0.5
    # first of a, first of b; second of a, which is second of b as well; third of a; then those without a reason
    assert _dealt(measures, reasons).tolist() == [0, 2, 1, 5, 4, 3]


def test_equals_in_a_list_share_the_last_of_their_places():
    measures = torch.tensor([[0.0, 0.3], [0.0, 0.1], [0.0, 0.2], [0.0, 0.4]])
    # the first list says nothing, so the second one decides, whatever the order of the rows
    assert _dealt(measures, torch.zeros(4, 2, dtype=torch.bool)).tolist() == [3, 0, 2, 1]


def test_a_data_set_without_objects_has_no_suspects(data):
    empty = [record for record in data.split("train") if not len(record.boxes)]
    inputs = Inputs.of(empty, 64)
    found = Suspects.of(inputs, certain_sides(inputs), 0.6)
    assert found.order.tolist() == []
