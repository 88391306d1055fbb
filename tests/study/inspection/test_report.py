"""The report: groups, choices of assigners, reasons, advice, images."""

import json

import numpy as np
import pytest

from boxwright.assigners import SSDAssigner
from boxwright.boxes import AnchorGenerator, PointGenerator
from boxwright.data.index import open_dataset
from boxwright.errors import DataError, RecipeError
from boxwright.recipes import load_recipe
from boxwright.study import inspect_data
from boxwright.study.inspection.assigner_choices import choices
from boxwright.study.inspection.inputs import Inputs
from boxwright.study.inspection.prior_fit import fit_report
from inspect_scenes import write_dataset

LAY = AnchorGenerator.retinanet((8, 16, 32), octave_base=2.0, scales_per_octave=1, ratios=(1.0,), offset=0.5)
RECIPE = load_recipe("retinanet-tiny", ["data.size=128"])


@pytest.fixture(scope="module")
def index(data):
    return data


@pytest.fixture(scope="module")
def report(index):
    return inspect_data(index, RECIPE, assigners=["max-iou:low_quality=none", "atss"], show=3)


def test_every_axis_divides_all_objects(report):
    for assigner in report["assigners"]:
        whole = assigner["summary"]["all"]
        for axis in report["axes"]:
            groups = assigner["summary"][axis["key"]]
            assert [group["name"] for group in groups] == axis["values"]
            for key in ("objects", "unmatched", "positives", "wanted", "lost"):
                assert sum(group[key] for group in groups) == whole[key], (axis["key"], key)
    assert whole["objects"] == 9


def test_groups_are_what_they_say(report):
    groups = {axis["key"]: report["assigners"][0]["summary"][axis["key"]] for axis in report["axes"]}
    counts = {key: {group["name"]: group["objects"] for group in found} for key, found in groups.items()}
    assert counts["class"] == {"cell": 5, "platelet": 4}
    assert counts["crowding"]["IoU 0.8+, duplicate?"] == 2
    assert counts["crowding"]["apart"] == 3
    assert counts["size"]["under 8 px"] == 3
    assert counts["aspect"]["wide, over 3:1"] == 1
    assert counts["aspect"]["tall, over 3:1"] == 1


def test_steps_hold_the_setting_and_the_usual_one(report):
    plain, atss = report["assigners"][1:]
    assert plain["setting"] == "positive_iou"
    assert plain["steps"][plain["usual"]]["value"] == 0.5
    shares = [step["summary"]["unmatched"] for step in plain["steps"]]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    assert atss["setting"] == "topk"
    assert atss["steps"][atss["usual"]]["summary"] == atss["summary"]["all"]


def test_objects_without_positives_are_listed_in_stored_pixels(index):
    small = load_recipe("retinanet-tiny", ["data.size=64"])
    found = inspect_data(index, small, assigners=["max-iou:low_quality=none"], sweep=False, show=0)
    listed = found["unmatched"]["max-iou:low_quality=none"]
    assert {"image": "b.png", "class": 1, "box": [20.0, 20.0, 25.0, 25.0]} in listed
    assert found["images"] == []


def test_report_is_json(report):
    assert json.loads(json.dumps(report)) == report


def test_images_are_those_with_most_trouble_and_can_be_asked_for(index, report):
    names = [image["name"] for image in report["images"]]
    assert names[0] == "b.png"
    assert "duplicates" in next(image["why"] for image in report["images"] if image["name"] == "a.png")
    assert all(image["picture"].startswith("data:image/jpeg;base64,") for image in report["images"])
    asked = inspect_data(index, RECIPE, images=["d.png"], assigners=["atss"], sweep=False)
    assert asked["data"]["images"] == 1
    assert [image["name"] for image in asked["images"]] == ["d.png"]
    assert len(asked["images"][0]["objects"]) == 2
    assert len(asked["images"][0]["crowd"]) == 1
    with pytest.raises(DataError, match=r"'z\.png' names no image"):
        inspect_data(index, RECIPE, images=["z.png"])


def test_an_image_that_cannot_be_read_says_so(tmp_path):
    root = write_dataset(tmp_path / "set")
    (root / "images" / "b.png").write_bytes(b"not an image")
    found = inspect_data(open_dataset(root, cache=False), RECIPE, assigners=["atss"], sweep=False, show=4)
    (broken,) = (image for image in found["images"] if image["name"] == "b.png")
    assert "picture" not in broken
    assert "b.png" in broken["error"]
    assert len(broken["objects"]) == 3


def test_choices_are_the_recipes_own_first_and_refuse_what_cannot_be_run():
    names = [choice.name for choice in choices(RECIPE)]
    assert names == ["max-iou (of retinanet-tiny)", "atss", "ssd"]
    assert [choice.name for choice in choices(load_recipe("tood-tiny"), ["ssd"])] == [
        "atss (first epochs of tood-tiny)",
        "ssd",
    ]
    for name, sentence in {
        "atsss": "did you mean 'atss'",
        "atss:topp=3": "topp",
        "atss:topk=many": "topk",
        "atss:topk=0": "assigner 'atss:topk=0': topk must be a whole number of at least 1, got 0",
        "atss:9": "KEY=VALUE",
        "simota": "looks at predictions",
        "proposal": "proposals",
    }.items():
        with pytest.raises(RecipeError, match=sentence):
            choices(RECIPE, [name])


def test_an_assigner_that_does_not_say_whether_it_looks_at_predictions_may_look(monkeypatch):
    monkeypatch.delattr(SSDAssigner, "needs_predictions")
    with pytest.raises(RecipeError, match="'ssd' looks at predictions"):
        choices(RECIPE, ["ssd"])
    assert [choice.stage for choice in choices(RECIPE, ["ssd"], stages=["after"])] == [None, 0]


def test_a_lower_threshold_leaves_no_prior_positive_and_background():
    for step in choices(RECIPE)[0].steps:
        assert step.assigner.negative_iou == min(0.4, step.value)


def test_advice_names_what_does_not_fit(index):
    inputs = Inputs.of(index.split("train"), 128)
    found = fit_report(inputs, AnchorGenerator.square((16, 32), scale=2.0))
    text = {advice["what"].split()[1]: advice["objects"] for advice in found["advice"]}
    assert found["levels"][0] == {"stride": 16, "shapes": [[32.0, 32.0]]}
    narrow = [
        a["objects"] for a in found["advice"] if "narrower than one cell of the finest level (stride 16)" in a["what"]
    ]
    assert narrow == [4], text
    ious = [step["mean_iou"] for step in found["anchors"]["steps"]]
    assert len(ious) == 9
    assert ious[-1] > 0.95
    assert ious[-1] > found["anchors"]["recipe"]["mean_iou"]
    assert fit_report(inputs, PointGenerator((8.0, 16.0)))["anchors"] == {}


def test_objects_too_small_for_the_network_are_said(index):
    inputs = Inputs.of(index.split("train"), 20)
    assert "left out of every batch" in fit_report(inputs, LAY)["advice"][0]["what"]
    assert fit_report(inputs, LAY)["advice"][0]["objects"] == 3


def test_a_data_set_without_objects_is_reported(index):
    found = inspect_data(index, RECIPE, images=["c.png"], assigners=["atss"])
    whole = found["assigners"][0]["summary"]["all"]
    assert whole["objects"] == 0
    assert whole["unmatched_share"] is None
    assert np.isfinite(whole["ignored_share"])
