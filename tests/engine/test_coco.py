"""COCO metrics against pycocotools: stored golden cases, and random scenes against the installed pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest

from boxwright.engine.coco import coco_metrics, run_coco_eval
from boxwright.errors import DataError
from goldens import golden_cases, load_case

CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 9, "name": "platelet"}]


def undefined_as_minus_one(stats):
    return np.array([-1.0 if value is None else value for value in stats.values()])


@pytest.mark.parametrize("file", golden_cases("assigners/coco_eval"))
def test_twelve_numbers_equal_pycocotools(file):
    case = load_case(file)
    truth, found = json.loads(str(case["in_gt_json"])), json.loads(str(case["in_dt_json"]))
    evaluator = run_coco_eval(truth, found)
    for name in ("precision", "recall", "scores"):
        np.testing.assert_allclose(evaluator.eval[name], case[f"out_{name}"].numpy(), atol=1e-6)
    stats = undefined_as_minus_one(coco_metrics(truth, found).stats)
    np.testing.assert_allclose(stats, case["out_stats"].numpy(), atol=1e-6)
    agnostic = coco_metrics(truth, found, class_agnostic=True)
    np.testing.assert_allclose(
        undefined_as_minus_one(agnostic.stats), case["out_stats_class_agnostic"].numpy(), atol=1e-6
    )
    assert agnostic.per_class == ()


def random_scene(seed, images=12):
    """Objects of two classes, some of them crowd, with detections that are jittered copies, doubles and strays."""
    rng = np.random.default_rng(seed)
    truth = {"images": [], "categories": CATEGORIES, "annotations": []}
    found = []
    for image in range(images):
        truth["images"].append({"id": image, "width": 640, "height": 480})
        for _ in range(rng.integers(0, 24)):  # COCO counts 1, 10 and 100 detections apart
            box = np.concatenate([rng.uniform(0, 300, 2), rng.uniform(5, 200, 2)])
            category = int(rng.choice([3, 9]))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
            for _ in range(rng.integers(0, 4)):
                jittered = (box + rng.normal(0, 6, 4)).clip(1)
                score = float(rng.choice([0.1, 0.5, 0.9, rng.random()]))
                found.append({"image_id": image, "category_id": category, "bbox": jittered.tolist(), "score": score})
    return truth, found


@pytest.mark.parametrize("seed", range(4))
def test_random_scenes_equal_the_installed_pycocotools(seed):
    pycocotools = pytest.importorskip("pycocotools.coco", reason="pycocotools is a development dependency")
    from pycocotools.cocoeval import COCOeval

    truth, found = random_scene(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        reference_truth = pycocotools.COCO()
        reference_truth.dataset = json.loads(json.dumps(truth))
        reference_truth.createIndex()
        reference = COCOeval(reference_truth, reference_truth.loadRes(json.loads(json.dumps(found))), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    metrics = coco_metrics(truth, found)
    np.testing.assert_allclose(undefined_as_minus_one(metrics.stats), reference.stats, atol=1e-6)
    for k, entry in enumerate(metrics.per_class):
        precision = reference.eval["precision"][:, :, k, 0, 2]
        assert entry.ap == pytest.approx(precision[precision > -1].mean(), abs=1e-6)
        assert entry.ap50 == pytest.approx(precision[0].mean(), abs=1e-6)
        assert entry.ar100 == pytest.approx(reference.eval["recall"][:, k, 0, 2].mean(), abs=1e-6)
        assert entry.objects == sum(
            not annotation["iscrowd"]
            for annotation in truth["annotations"]
            if annotation["category_id"] == entry.category_id
        )


def one_object(**changes):
    annotation = {"image_id": 0, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0, "id": 0}
    return {
        "images": [{"id": 0, "width": 100, "height": 100}],
        "categories": CATEGORIES,
        "annotations": [{**annotation, **changes}],
    }


def test_undefined_numbers_are_none_in_json_and_na_in_print():
    metrics = coco_metrics(one_object(), [])
    assert metrics.stats["AP"] == 0
    assert metrics.stats["AP_small"] is None
    assert metrics.per_class[1].ap is None
    assert json.loads(json.dumps(metrics.to_json()))["per_class"][1]["ap"] is None
    small = next(line for line in metrics.summary().splitlines() if "small" in line)
    assert small == " Average Precision  (AP) @[ IoU=0.50:0.95 | area= small | maxDets=100 ] = n/a"
    assert "-1" not in str(metrics)


def test_annotation_with_id_zero_is_found():
    """The matcher of pycocotools takes the id 0 for "not matched"; a file may use it all the same."""
    found = [{"image_id": 0, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.5}]
    assert coco_metrics(one_object(), found).stats["AP"] == pytest.approx(1)


def test_detection_in_a_crowd_region_costs_nothing():
    truth = one_object(iscrowd=1, bbox=[0, 0, 90, 90])
    truth["annotations"].append({**one_object()["annotations"][0], "bbox": [91, 91, 8, 8], "area": 64})
    found = [
        {"image_id": 0, "category_id": 3, "bbox": [20, 20, 30, 30], "score": 0.9},
        {"image_id": 0, "category_id": 3, "bbox": [91, 91, 8, 8], "score": 0.5},
    ]
    metrics = coco_metrics(truth, found)
    assert metrics.stats["AP"] == pytest.approx(1)
    assert metrics.per_class[0].objects == 1


def test_inputs_stay_as_they_are():
    truth, found = random_scene(0)
    before = json.dumps([truth, found])
    coco_metrics(truth, found)
    assert json.dumps([truth, found]) == before


def test_prediction_for_an_unknown_image_is_named():
    with pytest.raises(DataError, match=r"predictions\[0\] names image_id 5"):
        coco_metrics(one_object(), [{"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1.0}])
