"""AP from kept matches is COCO's, for all images and for any resampling of them."""

import numpy as np
import pytest
import torch

from boxwright.engine.coco import run_coco_eval
from boxwright.study.comparison.matching import Truth, match
from drawn_scenes import scenes


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_precision_is_cocos(seed, rounded):
    truth, predictions = scenes(seed, rounded=rounded)
    theirs = np.asarray(run_coco_eval(truth, predictions).eval["precision"])[:, :, :, 0, -1]  # T, R, K
    theirs = np.where(theirs < 0, np.nan, theirs).transpose(0, 2, 1)
    ours = match(Truth.of(truth), predictions)
    np.testing.assert_allclose(ours.precision().numpy(), theirs, atol=1e-12)
    np.testing.assert_allclose(ours.average_precision()[0].numpy(), theirs.mean(axis=2), atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_resampled_ap_is_that_of_a_data_set_with_copied_images(seed):
    truth, predictions = scenes(seed)
    ids = [image["id"] for image in truth["images"]]
    weights = np.random.default_rng(seed).multinomial(len(ids), [1 / len(ids)] * len(ids), size=4)
    ours = match(Truth.of(truth), predictions).average_precision(torch.from_numpy(weights)).numpy()
    for row, counts in enumerate(weights):
        copies = [(image, 1000 * copy + image) for image, n in zip(ids, counts, strict=True) for copy in range(n)]
        resampled = {
            "images": [{"id": new} for _, new in copies],
            "categories": truth["categories"],
            "annotations": [
                entry | {"image_id": new}
                for old, new in copies
                for entry in truth["annotations"]
                if entry["image_id"] == old
            ],
        }
        found = [entry | {"image_id": new} for old, new in copies for entry in predictions if entry["image_id"] == old]
        theirs = np.asarray(run_coco_eval(resampled, found).eval["precision"])[:, :, :, 0, -1]
        theirs = np.where(theirs < 0, np.nan, theirs).mean(axis=1)
        np.testing.assert_allclose(ours[row], theirs, atol=1e-12)


def test_only_a_hundred_detections_of_a_class_count_in_an_image():
    truth, _ = scenes(0, images=1)
    truth["annotations"] = [
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 10], "area": 100, "id": 1, "iscrowd": 0}
    ]
    far = [{"image_id": 7, "category_id": 3, "bbox": [100, 100, 9, 9], "score": 0.9 - i / 1000} for i in range(100)]
    right = {"image_id": 7, "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.1}
    assert match(Truth.of(truth), [*far, right]).average_precision()[0, 0, 0] == 0
    assert match(Truth.of(truth), [*far[:99], right]).average_precision()[0, 0, 0] > 0
    assert len(match(Truth.of(truth), [])) == 0
    assert match(Truth.of(truth), []).average_precision()[0, 0].nan_to_num(-1).tolist() == [0, -1, -1, -1]
