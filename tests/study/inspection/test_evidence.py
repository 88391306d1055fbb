"""What a run says about annotations, gathered batch by batch, is what its detector says about each image."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from boxwright.study.inspection import unlabelled
from boxwright.study.inspection.evidence import Evidence
from boxwright.study.inspection.inputs import Inputs
from boxwright.study.inspection.network import Network, pixels_of
from boxwright.study.inspection.relabel import relabel
from inspect_scenes import CROWD, OBJECTS, iou


def test_what_is_not_annotated_is_what_the_detector_finds_away_from_all_boxes(gfl_run, data, monkeypatch):
    monkeypatch.setattr(unlabelled, "SHOWN", 0.0)
    network = Network.of_run(gfl_run.path, data)
    detector = network.after.detector
    detector.postprocess = replace(detector.postprocess, score_threshold=0.0, max_detections=15)
    records = data.split("train")
    inputs = Inputs.of(records, 128)
    evidence = Evidence.empty(network, len(inputs))
    for batch, pixels in pixels_of(records, inputs.batches(detector.priors, most=3), 128):
        evidence.add(batch, network.after.predict(pixels).predictions)
    suspects, missing = evidence.weighed(inputs)
    lists = relabel(inputs, records, data.class_names, suspects, missing)
    expected = []
    for record in records:
        name = record.path.name
        with torch.no_grad():
            [found] = detector.eval()([pil_to_tensor(Image.open(record.path))])
        for box, score, label in zip(*(found[key].tolist() for key in ("boxes", "scores", "labels")), strict=True):
            apart = all(iou(box, other) < 0.5 for _, other in OBJECTS[name])
            if apart and not (name == CROWD[0] and share_inside(box, CROWD[1]) >= 0.5):
                expected.append(
                    (name, data.class_names[label], pytest.approx(score, abs=1e-3), pytest.approx(box, abs=0.2))
                )
    rows = [(row[0], row[1], row[7], row[2:6]) for row in lists["unlabelled"]["rows"]]
    assert len(rows) == len(expected) > 20
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
    for row in rows:
        assert row in expected


def share_inside(box, region):
    """Share of a box that lies in a region."""
    width = min(box[2], region[2]) - max(box[0], region[0])
    height = min(box[3], region[3]) - max(box[1], region[1])
    return max(width, 0) * max(height, 0) / max((box[2] - box[0]) * (box[3] - box[1]), 1e-7)


def test_a_network_without_distributions_gathers_none(tood_run, data):
    assert Evidence.empty(Network.of_run(tood_run.path, data), 9) is None
