"""What is known of the two real data sets, counted by brute force as well."""

import numpy as np
import pytest

from boxwright.data.index import open_dataset
from boxwright.recipes import build_detector, load_recipe
from boxwright.study import inspect_data
from boxwright.study.inspection.inputs import Inputs, priors_of
from boxwright.study.inspection.suspects import Suspects
from certain_sides import certain_sides

RECIPE = load_recipe("retinanet-tiny")
PLAIN = "max-iou:low_quality=none"


def brute_force(records, lay, size):
    """Positives by level of every object, by an IoU of every pair in float64 and nothing else."""
    counts = []
    for record in records:
        scale = size / max(record.height, record.width)
        height, width = round(record.height * scale), round(record.width * scale)
        boxes = record.boxes.double().numpy() * np.array([width / record.width, height / record.height] * 2)
        boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)]
        priors = priors_of(lay, (size, size))
        anchors = priors.boxes.double().numpy()
        low, high = (
            f(boxes[:, None, at], anchors[None, :, at])
            for f, at in ((np.maximum, slice(0, 2)), (np.minimum, slice(2, 4)))
        )
        shared = (high - low).clip(0).prod(-1)
        area = [(some[:, 2:] - some[:, :2]).prod(-1) for some in (boxes, anchors)]
        iou = shared / (area[0][:, None] + area[1][None] - shared)
        level = np.repeat(np.arange(len(priors.levels)), [grid.size for grid in priors.levels])
        own = np.zeros((len(boxes), len(priors.levels)), np.int64)
        if len(boxes):
            owner, best = iou.argmax(0), iou.max(0)
            np.add.at(own, (owner[best >= 0.5], level[best >= 0.5]), 1)
        counts.append(own)
    return np.concatenate(counts)


@pytest.mark.parametrize("name", ["bccd", "aquarium"])
def test_counts_equal_a_brute_force_count(shared, name):
    index = open_dataset(shared / "data" / name)
    report = inspect_data(index, RECIPE, split="test", assigners=[PLAIN], sweep=False, show=0)
    lay = build_detector(RECIPE, index.class_names, pretrained=False).priors
    expected = brute_force(index.split("test"), lay, RECIPE.data.size)
    found = report["assigners"][1]["summary"]["all"]
    assert found["objects"] == len(expected)
    assert found["unmatched"] == (expected.sum(1) == 0).sum() > 0
    assert found["by_level"] == expected.sum(0).tolist()


def test_small_fish_have_no_positives_at_stride_8_and_above(shared):
    index = open_dataset(shared / "data" / "aquarium")
    report = inspect_data(index, RECIPE, split="test", assigners=[PLAIN], sweep=False, show=2)
    assert report["recipe"]["strides"][0] == 8
    sizes = {group["name"]: group for group in report["assigners"][1]["summary"]["size"]}
    assert sizes["8–16 px"]["unmatched_share"] > 0.9
    assert sizes["64–128 px"]["unmatched_share"] < 0.3
    worst = report["images"][0]
    assert any(not verdict["priors"] for verdict in worst["assigners"][1]["steps"][0])
    assert any("quarter of the area of the smallest anchor" in advice["what"] for advice in report["fit"]["advice"])


def test_bccd_has_small_platelets_and_cells_boxed_twice(shared):
    index = open_dataset(shared / "data" / "bccd")
    report = inspect_data(index, RECIPE, assigners=["atss"], sweep=False, show=12)
    size, kind = (next(i for i, axis in enumerate(report["axes"]) if axis["key"] == key) for key in ("size", "class"))
    platelets = index.class_names.index("Platelets")
    counts = np.array([sum(row[: len(report["bins"])]) for row in report["assigners"][1]["steps"][0]["counts"]])
    cells = np.array(report["cells"])
    small = cells[:, size] <= report["axes"][size]["values"].index("16–32 px")
    of = {
        name: counts[small & (cells[:, kind] == name)].sum() / counts[cells[:, kind] == name].sum() for name in range(3)
    }
    assert of[platelets] > 0.85
    assert max(share for name, share in of.items() if name != platelets) < 0.15
    twice = next(group for group in report["assigners"][1]["summary"]["crowding"] if "duplicate" in group["name"])
    assert twice["objects"] == 10  # five pairs in this split
    shown = {image["name"] for image in report["images"] if "duplicates" in image["why"]}
    assert shown & {f"BloodImage_{number}.jpg" for number in ("00013", "00020", "00100", "00251", "00403")}


def test_cells_of_bccd_that_are_boxed_twice_lead_the_list_to_look_at_again(shared):
    records = open_dataset(shared / "data" / "bccd").split("train")
    inputs = Inputs.of(records, 320)
    found = Suspects.of(inputs, certain_sides(inputs), 0.6)  # a network that predicts just what was drawn
    first = [records[int(inputs.image[row])].path.stem[-5:] for row in found.order[:10].tolist()]
    assert sorted(first) == sorted(2 * ["00013", "00020", "00100", "00251", "00403"])
    assert int(found.reasons.sum()) == 10


def test_recommended_anchors_fit_better_than_the_recipes(shared):
    for name in ("bccd", "aquarium"):
        index = open_dataset(shared / "data" / name)
        anchors = inspect_data(index, RECIPE, split="train", assigners=["atss"], sweep=False, show=0)["fit"]["anchors"]
        enough = anchors["steps"][anchors["enough"] - 1]
        assert enough["mean_iou"] > anchors["recipe"]["mean_iou"]
        assert f"{enough['shapes'][0][0]:g}×{enough['shapes'][0][1]:g}" in anchors["advice"]
        assert len(enough["shapes"]) == anchors["enough"] < len(anchors["steps"])
        assert enough["under_half"] < anchors["recipe"]["under_half"]
