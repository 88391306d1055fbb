"""Kinds of errors and their cost, against the authors' tool and against hand-made scenes."""

import pytest

from boxwright.study.comparison.error_kinds import KINDS, error_kinds
from boxwright.study.comparison.matching import Truth, match
from drawn_scenes import scenes

# tidecv 1.0.1, mode=TIDE.BOX: AP50 that each kind costs, and how many there are
TIDE = {
    0: {"classification": (3.297201, 18), "localisation": (14.643606, 43), "both": (1.248869, 18),
        "duplicate": (2.853167, 42), "background": (5.039420, 52), "missed": (10.166985, 32)},
    1: {"classification": (4.221375, 15), "localisation": (18.158476, 41), "both": (0.856141, 13),
        "duplicate": (3.102254, 46), "background": (2.976851, 41), "missed": (10.429390, 32)},
}  # fmt: skip


@pytest.mark.parametrize("seed", TIDE)
def test_kinds_and_costs_are_those_of_the_authors_tool(seed):
    truth, predictions = scenes(seed, images=40)
    for entry in truth["annotations"]:
        entry["iscrowd"] = 0
    with_objects = {entry["image_id"] for entry in truth["annotations"]}  # the tool looks at no others
    truth["images"] = [image for image in truth["images"] if image["id"] in with_objects]
    found = error_kinds(match(Truth.of(truth), [entry for entry in predictions if entry["image_id"] in with_objects]))
    assert {kind: (round(100 * found.cost[kind], 6), found.counts[kind]) for kind in KINDS} == TIDE[seed]


def one_object(*detections, crowd=0, other=()):
    """One object of class 1 at (0, 0, 10, 10), and detections (class, x, width)."""
    annotations = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": crowd}]
    annotations += [{"image_id": 1, "category_id": label, "bbox": box, "iscrowd": 0} for label, box in other]
    truth = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": annotations,
    }
    found = [
        {"image_id": 1, "category_id": label, "bbox": [x, 0, width, 10], "score": 0.9 - 0.1 * rank}
        for rank, (label, x, width) in enumerate(detections)
    ]
    return error_kinds(match(Truth.of(truth), found))


@pytest.mark.parametrize(
    ("detection", "kind"),
    [((2, 0, 10), "classification"), ((1, 0, 3), "localisation"), ((2, 0, 3), "both"), ((1, 40, 10), "background")],
)
def test_a_single_wrong_detection_is_of_its_kind(detection, kind):
    found = one_object(detection)
    points = kind in ("classification", "localisation")
    assert found.counts == {name: int(name == kind or (name == "missed" and not points)) for name in KINDS}
    assert found.cost[kind] == pytest.approx(1 if points else 0)


def test_a_second_detection_of_an_object_is_a_duplicate_that_costs_only_what_comes_after_it():
    found = one_object((1, 0, 10), (1, 1, 10))
    assert found.counts["duplicate"] == 1
    assert found.cost["duplicate"] == 0
    found = one_object((1, 0, 10), (1, 1, 10), (1, 30, 10), other=[(1, [30, 0, 10, 10])])
    assert found.cost["duplicate"] > 0.1


def test_detections_on_regions_to_ignore_are_neither_right_nor_wrong():
    found = one_object((1, 0, 10), (1, 2, 3), crowd=1, other=[(1, [50, 0, 10, 10])])
    assert found.counts == dict.fromkeys(KINDS, 0) | {"missed": 1}


def test_without_objects_nothing_has_a_cost():
    found = one_object((1, 50, 10), crowd=1)
    assert found.cost == dict.fromkeys(KINDS)
    assert found.counts["background"] == 1
