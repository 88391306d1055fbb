"""Detections that no annotation explains."""

import pytest
import torch

from boxwright.boxes import PointGenerator
from boxwright.structures import Detections
from boxwright.study.inspection.inputs import Inputs, priors_of
from boxwright.study.inspection.unlabelled import Unlabelled
from inspect_scenes import CROWD, OBJECTS, iou

LAY = PointGenerator((8.0,))


def found_in(data, **of_image):
    """What is left of detections (box, score, label) in images of 128 px."""
    inputs = Inputs.of(data.split("train"), 128)
    records = data.split("train")
    batch = inputs.batch(inputs.frames, priors_of(LAY, (128, 128)))
    parts = []
    for frame in batch.frames:
        some = of_image.get(records[frame.record].path.stem, [])
        boxes = torch.tensor([box for box, *_ in some], dtype=torch.float32).view(1, -1, 4)
        scores = torch.tensor([[score for _, score, _ in some]], dtype=torch.float32)
        labels = torch.tensor([[label for *_, label in some]], dtype=torch.int64)
        part = Detections(boxes, scores, labels, torch.tensor([len(some)]))
        parts += Unlabelled.of(inputs.batch([frame], batch.priors), part)
    assert len(parts) == len(inputs.frames)
    return Unlabelled.join(parts)


def test_only_sure_detections_away_from_all_annotations_are_left(data):
    free, crowd = (0, 90, 30, 120), CROWD[1]
    (_, annotated), (other_class, near) = OBJECTS["a.png"][0], OBJECTS["a.png"][1]
    shifted = (near[0] - 50, near[1], near[2] - 50, near[3])
    found = found_in(
        data,
        a=[(annotated, 0.9, 0), (near, 0.9, 1 - other_class), (free, 0.4, 1), (free, 0.29, 0), (shifted, 0.3, 0)],
        c=[((10, 10, 40, 40), 0.7, 0)],
        d=[((10, 70, 40, 100), 0.99, 0), ((crowd[0], 10, 120, 118), 0.9, 1)],
    )
    kept = list(zip(found.scores.tolist(), found.labels.tolist(), found.image.tolist(), strict=True))
    image = {record.path.stem: number for number, record in enumerate(data.split("train"))}
    # in the image without objects everything is; what lies on a region to ignore is not, what only touches one is
    expected = [(0.9, 1, "d"), (0.7, 0, "c"), (0.4, 1, "a"), (0.3, 0, "a")]
    assert [(round(score, 2), label, at) for score, label, at in kept] == [
        (s, k, image[name]) for s, k, name in expected
    ]
    assert found.iou.tolist()[1] == 0
    assert float(found.iou[3]) == pytest.approx(max(iou(shifted, box) for _, box in OBJECTS["a.png"]), abs=1e-5)
    assert len(found) == 4


def test_nothing_found_is_an_empty_list(data):
    assert len(found_in(data)) == 0
