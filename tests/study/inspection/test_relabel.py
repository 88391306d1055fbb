"""The lists of boxes to look at again: their columns, what is drawn, and the CSV."""

import csv
import io

import pytest
import torch

from boxwright.study.inspection.inputs import Inputs
from boxwright.study.inspection.relabel import COLUMNS, relabel, relabel_csv
from boxwright.study.inspection.suspects import Suspects
from boxwright.study.inspection.unlabelled import Unlabelled
from certain_sides import certain_sides
from inspect_scenes import OBJECTS


@pytest.fixture
def lists(data):
    records = data.split("train")
    inputs = Inputs.of(records, 64)  # half of the stored size
    sides = certain_sides(inputs)
    sides.probability[0, 0] = torch.tensor([0.5, 0, 0, 0, 0.5])
    sides.boxes[0] += torch.tensor([0.0, -4.0, 0.0, 0.0])
    sides.rival[0], sides.rival_label[0] = 0.9, 1
    sides.iou[1], sides.seen[1] = 0.3, 0
    image = next(number for number, record in enumerate(records) if record.path.name == "c.png")
    missing = Unlabelled(
        torch.tensor([image, 0]),
        torch.tensor([[4.0, 5, 20, 21], [40, 1, 56, 17]]),
        torch.tensor([0, 1]),
        torch.tensor([0.7, 0.4]),
        torch.tensor([0.0, 0.25]),
    )
    return relabel(inputs, records, data.class_names, Suspects.of(inputs, sides, 0.6), missing)


def named(lists, part):
    return [dict(zip(COLUMNS, row, strict=True)) for row in lists[part]["rows"]]


def test_rows_say_why_in_pixels_of_the_stored_image(lists, data):
    rows = named(lists, "annotated")
    assert len(rows) == sum(len(objects) for objects in OBJECTS.values())
    first = next(row for row in rows if row["reasons"].startswith("other class"))
    assert first["reasons"] == "other class, two peaks"  # flat is more than a quarter
    assert (first["image"], first["class"], first["other_class"], first["other_score"]) == (
        "a.png",
        "cell",
        "platelet",
        0.9,
    )
    assert [first[name] for name in ("x1", "y1", "x2", "y2")] == [8, 8, 72, 72]
    assert (first["spread_side"], first["spread"]) == ("left", 8 / 32)
    assert (first["peaks_side"], first["prominence"]) == ("left", 0.5)
    assert sorted([first["first_peak"], first["second_peak"]]) == [8 - 16, 8 + 16]
    assert (first["offset_side"], first["offset"]) == ("top", 4 / 32)
    twin = next(row for row in rows if row["reasons"] == "double box")
    assert twin["double_iou"] == pytest.approx(31 / 33, abs=1e-4)
    unseen = next(row for row in rows if row["reasons"] == "not seen")
    assert {unseen[name] for name in ("offset_side", "offset", "spread", "peaks_side", "first_peak")} == {None}
    assert (unseen["iou"], unseen["score"], unseen["other_class"]) == (0.3, 0, None)


def test_rows_of_what_is_not_annotated_have_the_detection(lists):
    first, second = named(lists, "unlabelled")
    assert (first["image"], first["class"], first["reasons"], first["score"]) == ("c.png", "cell", "not annotated", 0.7)
    assert [first[name] for name in ("x1", "y1", "x2", "y2")] == [8, 10, 40, 42]
    assert (second["image"], second["class"], second["iou"]) == ("a.png", "platelet", 0.25)
    assert second["double_iou"] is None


def test_csv_holds_both_lists_each_ranked_from_one(lists):
    written = list(csv.DictReader(io.StringIO(relabel_csv(lists))))
    count = len(lists["annotated"]["rows"])
    assert [int(row["rank"]) for row in written] == [*range(1, count + 1), 1, 2]
    assert [row["reasons"] for row in written[count:]] == ["not annotated"] * 2
    assert written[count]["offset"] == ""
    assert [float(row["x1"]) for row in written] == [
        row[2] for part in ("annotated", "unlabelled") for row in lists[part]["rows"]
    ]


def test_pictures_are_crops_with_the_boxes_in_their_pixels(lists):
    rows = named(lists, "annotated")
    place = next(i for i, row in enumerate(rows) if row["reasons"].startswith("other class"))
    entry = lists["annotated"]["drawn"][place]
    assert entry["picture"].startswith("data:image/jpeg;base64,")
    x1, y1, x2, y2 = entry["box"]
    assert (x2 - x1, y2 - y1) == (64, 64)
    assert 0 <= x1 < x2 <= entry["width"]
    assert 0 <= y1 < y2 <= entry["height"]
    assert entry["predicted"] == [x1, y1 - 8, x2, y2]
    assert entry["place"][0] == [x1 + 16, x1 + 8, x1, x1 - 8, x1 - 16]
    assert entry["probability"][0] == [0.5, 0, 0, 0, 0.5]
    # one of the cells beside it reaches into the crop with an edge, and both boxes of another one
    assert [x1 + 32, y1 + 32, x1 + 112, y1 + 112] in entry["others"]
    assert len(entry["others"]) == 3
    missing = lists["unlabelled"]["drawn"][0]
    assert missing["others"] == []
    assert missing["box"][2] - missing["box"][0] == 32
    assert "predicted" not in missing
