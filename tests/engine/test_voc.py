"""Pascal VOC's average precision against the original evaluators."""

import numpy as np
import pytest

from boxwright.engine.voc import voc_precision_recall
from goldens import golden_cases, load_case

NONE = np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)


def of_class(case, label):
    """Detections and objects of one class, as the originals read them."""
    detected, wanted = (case[name].numpy() == label for name in ("in_dt_class", "in_gt_class"))
    names = ("in_dt_boxes_xyxy", "in_dt_score", "in_dt_image"), ("in_gt_boxes_xyxy", "in_gt_image", "in_gt_difficult")
    boxes, scores, images = (case[name].numpy()[detected] for name in names[0])
    truth, truth_images, difficult = (case[name].numpy()[wanted] for name in names[1])
    return (boxes, scores, images, truth.astype(np.int64).astype(np.float64), truth_images), difficult.astype(bool)


@pytest.mark.parametrize("file", golden_cases("assigners/voc_eval"))
def test_curves_equal_the_originals(file):
    case = load_case(file)
    threshold = case.param("iou_threshold")
    for label in sorted({int(name.split("_")[2][1:]) for name in case if name.startswith("out_voc_c")}):
        arguments, difficult = of_class(case, label)

        def expected(name, label=label):
            return case[f"out_{name.format(label)}"].numpy()

        curve = voc_precision_recall(*arguments, difficult, iou_threshold=threshold)
        np.testing.assert_allclose(curve.precision, expected("voc_c{}_prec"), atol=1e-9)
        np.testing.assert_allclose(curve.recall, expected("voc_c{}_rec"), atol=1e-9)
        assert curve.ap == pytest.approx(expected("voc_c{}_ap10"), abs=1e-9)
        assert curve.ap_eleven_points == pytest.approx(expected("voc_c{}_ap07"), abs=1e-9)

        curve = voc_precision_recall(*arguments, iou_threshold=threshold, inclusive=True)
        np.testing.assert_allclose(curve.precision, expected("odm_c{}_precision"), atol=1e-9)
        np.testing.assert_allclose(curve.recall, expected("odm_c{}_recall"), atol=1e-9)
        assert curve.ap == pytest.approx(expected("odm_c{}_ap_every"), abs=1e-9)
        assert curve.ap_eleven_points == pytest.approx(expected("odm_c{}_ap_eleven"), abs=1e-9)
        assert curve.objects == expected("odm_c{}_totals_npos_tp_fp")[0]


def test_nothing_found_and_nothing_to_find():
    truth = np.array([[0.0, 0, 9, 9]]), np.array([0])
    missed = voc_precision_recall(*NONE, *truth)
    assert (missed.ap, missed.ap_eleven_points) == (0, 0)
    nothing = voc_precision_recall(truth[0], np.array([0.5]), np.array([0]), NONE[0], NONE[2])
    assert (nothing.ap, nothing.ap_eleven_points, nothing.objects) == (None, None, 0)
    assert nothing.precision.tolist() == [0]


def test_extents_decide_at_the_threshold():
    """10 x 10 in 10 x 20 pixels: half with plain extents, more with the development kit's."""
    box, truth = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 20]])
    arguments = box, np.array([0.5]), np.array([0]), truth, np.array([0])
    assert voc_precision_recall(*arguments).ap == 1
    assert voc_precision_recall(*arguments, pixel_extents=False).ap == 0
    assert voc_precision_recall(*arguments, pixel_extents=False, inclusive=True).ap == 1
