"""The list of ambiguous boxes: its order, its columns, and what is drawn."""

import csv
import io

import pytest
import torch

from boxwright.study.ambiguity import COLUMNS, Ambiguity, ambiguous_csv
from boxwright.study.scenes import Scenes
from boxwright.study.sides import Sides


@pytest.fixture
def scenes(data):
    return Scenes.of(data.split("train"), 64)  # half of the stored size


def sides_of(scenes, spread):
    """Sides that are certain, but for the given objects: object → (side, the two places and their probabilities)."""
    boxes = torch.from_numpy(scenes.boxes)
    place = boxes.unsqueeze(-1) + torch.tensor([-8.0, -4, 0, 4, 8])
    probability = torch.zeros(len(boxes), 4, 5)
    probability[..., 2] = 1
    for row, (side, bins) in spread.items():
        probability[row, side] = torch.tensor(bins)
    outwards = torch.tensor([-1.0, -1, 1, 1]).unsqueeze(-1)
    place = (place * outwards).sort(-1).values * outwards
    iou = torch.ones(len(boxes))
    return Sides(probability, place, boxes.clone(), torch.full((len(boxes),), 0.5), iou)


def test_the_widest_side_in_units_of_the_object_comes_first_and_what_is_not_found_last(scenes):
    sides = sides_of(scenes, {0: (0, [0.5, 0, 0, 0, 0.5]), 3: (1, [0.5, 0, 0, 0, 0.5]), 2: (3, [0.0, 0.5, 0, 0.5, 0])})
    sides.iou[3] = 0.4
    found = Ambiguity.of(scenes, sides)
    # 8 px of 32, and 4 px of 16; object 3 would be first
    assert found.order.tolist()[:2] == [0, 2]
    assert found.order.tolist()[-1] == 3
    assert float(found.share[0, 0]) == pytest.approx(8 / 32)
    assert float(found.share[2, 3]) == pytest.approx(4 / 16)
    assert float(found.share[3, 1]) == pytest.approx(8 / 16)


def test_rows_are_in_pixels_of_the_stored_image(scenes, data):
    sides = sides_of(scenes, {0: (0, [0.5, 0, 0, 0, 0.5])})
    found = Ambiguity.of(scenes, sides)
    scale = torch.full((len(scenes.frames), 2), 2.0)
    names = [data.split("train")[frame.record].path.name for frame in scenes.frames]
    rows = found.rows(scenes, names, data.class_names, scale)
    first = dict(zip(COLUMNS, rows[0], strict=True))
    assert (first["image"], first["class"], first["side"]) == ("a.png", "cell", "left")
    assert [first[name] for name in ("x1", "y1", "x2", "y2")] == [8, 8, 72, 72]
    assert first["spread"] == 16
    assert sorted([first["first_peak"], first["second_peak"]]) == [8 - 16, 8 + 16]
    assert first["prominence"] == 0.5
    assert len(rows) == len(scenes)
    written = list(csv.DictReader(io.StringIO(ambiguous_csv(rows))))
    assert [entry["rank"] for entry in written] == [str(place) for place in range(1, len(rows) + 1)]
    assert written[0]["side"] == "left"


def test_the_first_and_those_with_two_peaks_are_drawn_in_pixels_of_their_crop(scenes, data):
    last = 1
    sides = sides_of(scenes, {0: (0, [0.5, 0, 0, 0, 0.5]), last: (2, [0.0, 0.5, 0, 0.5, 0])})
    found = Ambiguity.of(scenes, sides)
    scale = torch.full((len(scenes.frames), 2), 2.0)
    drawn = found.drawn(scenes, data.split("train"), scale, first=1, peaked=2, among=len(scenes))
    places = {place for place, row in enumerate(found.order.tolist()) if row in (0, last)}
    assert {int(place) for place in drawn} == places
    entry = drawn["0"]
    assert entry["picture"].startswith("data:image/jpeg;base64,")
    x1, y1, x2, y2 = entry["box"]
    assert (x2 - x1, y2 - y1) == (64, 64)
    assert 0 <= x1 < x2 <= entry["width"]
    assert 0 <= y1 < y2 <= entry["height"]
    assert entry["place"][0] == [x1 + 16, x1 + 8, x1, x1 - 8, x1 - 16]
    assert entry["probability"][0] == [0.5, 0, 0, 0, 0.5]
