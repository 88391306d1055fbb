"""Reasons: they follow from the rules, and name the priors that the assigner gave."""

import math

import pytest
import torch

from boxwright.assigners import (
    ATSSAssigner,
    DualAssigner,
    DynamicSoftLabelAssigner,
    HungarianAssigner,
    MaxIoUAssigner,
    SimOTAAssigner,
    SSDAssigner,
    TaskAlignedAssigner,
)
from boxwright.boxes import AnchorGenerator
from boxwright.structures import Predictions
from boxwright.study.inspection.explain import explain
from boxwright.study.inspection.inputs import Inputs, priors_of
from inspect_scenes import iou

LAY = AnchorGenerator.retinanet((8, 16, 32), octave_base=2.0, scales_per_octave=1, ratios=(1.0,), offset=0.5)
GEOMETRIC = [
    MaxIoUAssigner(),
    MaxIoUAssigner(low_quality="none"),
    ATSSAssigner(),
    ATSSAssigner(topk=3),
    SSDAssigner(),
]
PREDICTING = [
    TaskAlignedAssigner(),
    TaskAlignedAssigner.ultralytics(),
    TaskAlignedAssigner(topk=3),
    DualAssigner().branch(1),
    SimOTAAssigner(),
    SimOTAAssigner.mmdet(),
    DynamicSoftLabelAssigner(),
    DynamicSoftLabelAssigner(center_radius=None),
    HungarianAssigner(class_form="focal"),
]


@pytest.fixture(scope="module")
def inputs(data):
    return Inputs.of(data.split("train"), 128)


def single(inputs):
    """The images one by one, with predictions: boxes around the objects, scores at random."""
    generator = torch.Generator().manual_seed(0)
    for frame in inputs.frames:
        batch = inputs.batch([frame], priors_of(LAY, frame.canvas))
        boxes = batch.priors.boxes + 4 * torch.randn(len(batch.priors), 4, generator=generator)
        logits = torch.randn(1, len(batch.priors), 2, generator=generator)
        yield batch, Predictions(logits, logits[..., :0], boxes=boxes[None])


def of_image(inputs, data, name):
    return next(pair for pair in single(inputs) if data.split("train").name(pair[0].frames[0].record) == name)


@pytest.mark.parametrize("assigner", GEOMETRIC + PREDICTING, ids=repr)
def test_reasons_name_the_priors_that_were_given(inputs, assigner):
    for batch, predictions in single(inputs):
        assignment, verdicts = assigner(batch.priors, batch.targets, predictions), explain(assigner, batch, predictions)
        numbers = (batch.rows[0] >= 0).nonzero()[:, 0].tolist()
        assert len(verdicts) == len(numbers)
        for number, verdict in zip(numbers, verdicts, strict=True):
            own = (assignment.gt_index[0] == number).nonzero()[:, 0].tolist()
            assert [match.prior for match in verdict.matches] == own
            assert verdict.sentence
            for match in verdict.matches:
                assert "{" not in verdict.why(match)
                assert all(math.isfinite(value) for value in match.numbers)


@pytest.mark.parametrize("assigner", GEOMETRIC, ids=repr)
def test_overlaps_are_those_of_the_prior_and_reach_the_threshold(inputs, assigner):
    for batch, _ in single(inputs):
        boxes = batch.targets.boxes[0, batch.rows[0] >= 0].tolist()
        for box, verdict in zip(boxes, explain(assigner, batch), strict=True):
            for match in verdict.matches:
                overlap = iou(box, batch.priors.boxes[match.prior].tolist())
                assert match.numbers[0] == pytest.approx(overlap, rel=6e-3)
                words = verdict.why(match)
                if "threshold is" in words:
                    threshold = float(words.split("threshold is ")[1].split(";")[0])
                    assert (overlap >= threshold) != ("under it" in words)
                else:
                    assert overlap >= float(words.split("≥ ")[1].split(",")[0]) - 0.006


@pytest.mark.parametrize("assigner", PREDICTING[:4], ids=repr)
def test_alignments_multiply_and_rank(inputs, assigner):
    seen = 0
    for batch, predictions in single(inputs):
        numbers = (batch.rows[0] >= 0).nonzero()[:, 0].tolist()
        for number, verdict in zip(numbers, explain(assigner, batch, predictions), strict=True):
            label = int(batch.targets.labels[0, number])
            for match in verdict.matches:
                aligned, score, overlap, rank = match.numbers
                assert score == pytest.approx(float(predictions.logits[0, match.prior, label].sigmoid()), rel=6e-3)
                assert aligned == pytest.approx(score**assigner.alpha * overlap**assigner.beta, rel=0.05)
                if assigner.overlap == "iou":
                    predicted = predictions.boxes[0, match.prior].tolist()
                    assert overlap == pytest.approx(iou(batch.targets.boxes[0, number].tolist(), predicted), rel=6e-3)
                if assigner.conflicts == "selected":
                    assert 1 <= rank <= assigner.topk
                seen += 1
    assert seen > 5


@pytest.mark.parametrize("assigner", PREDICTING[4:8], ids=repr)
def test_costs_rank_within_k_unless_a_note_says_otherwise(inputs, assigner):
    seen = 0
    for batch, predictions in single(inputs):
        for verdict in explain(assigner, batch, predictions):
            for match in verdict.matches:
                words = verdict.why(match)
                k = int(words.split("k = ")[1].split()[0])
                total = float(words.split("overlap it by ")[1].split()[0])
                assert k == max(1, math.floor(total)) or abs(total - round(total)) < 0.051
                assert (match.numbers[2] > k) == ("not among them" in words)
                seen += 1
    assert seen > 5


def test_reasons_name_the_rival(inputs, data):
    batch, predictions = of_image(inputs, data, "a.png")
    verdicts = explain(MaxIoUAssigner(0.3, 0.3, low_quality="none"), batch)
    assert any("won against object 4 (IoU" in match.note for match in verdicts[2].matches)
    verdicts = explain(SimOTAAssigner(), batch, predictions)
    assert any("won against object" in match.note and "(cost" in match.note for v in verdicts for match in v.matches)


def test_an_object_without_positives_says_what_was_missing(inputs, data):
    batch, predictions = of_image(inputs, data, "a.png")
    assert "under 0.99" in explain(MaxIoUAssigner(0.99, 0.4, low_quality="none"), batch)[0].sentence
    far = Predictions(predictions.logits, predictions.params, boxes=predictions.boxes + 1000)
    assert "no predicted box is aligned" in explain(TaskAlignedAssigner(), batch, far)[0].sentence
    batch, predictions = of_image(inputs, data, "b.png")
    tiny = explain(TaskAlignedAssigner(topk=1), batch, predictions)
    lost = [verdict.sentence for verdict in tiny if not verdict.matches]
    assert lost
    assert all("centre inside" in words or "aligned" in words or "went to" in words for words in lost)
