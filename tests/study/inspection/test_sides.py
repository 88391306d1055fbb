"""Distributions of sides: how wide, how many-peaked, and whose they are."""

from dataclasses import replace

import pytest
import torch

from boxwright.boxes import FineGrainedCoder, IntegralCoder, PointGenerator
from boxwright.structures import Predictions
from boxwright.study.inspection.inputs import Inputs, priors_of
from boxwright.study.inspection.sides import Sides, excess_spread, peaks

LAY = PointGenerator((8.0, 16.0))


def test_a_mean_between_two_bins_is_no_spread():
    value = torch.tensor([0.0, 1.0, 2.0, 4.0])
    for left, right in ((0, 1), (2, 3)):
        for share in (0.0, 0.3, 0.5, 1.0):
            probability = torch.zeros(4)
            probability[left], probability[right] = 1 - share, share
            assert float(excess_spread(probability, value)) == pytest.approx(0, abs=1e-3)


def test_spread_is_the_deviation_beyond_the_least_one():
    generator = torch.Generator().manual_seed(3)
    value = torch.arange(9.0)
    for probability in torch.rand(50, 9, generator=generator).softmax(-1):
        mean = float((probability * value).sum())
        variance = sum(float(p) * (float(v) - mean) ** 2 for p, v in zip(probability, value, strict=True))
        rest = mean % 1
        found = float(excess_spread(probability, value))
        assert found**2 == pytest.approx(variance - rest * (1 - rest), rel=1e-3)


def test_peaks_are_those_of_a_search_one_pair_at_a_time():
    generator = torch.Generator().manual_seed(5)
    value = torch.linspace(10, 90, 9)
    probability = (3 * torch.randn(200, 9, generator=generator)).softmax(-1)
    found = peaks(probability, value)
    for row, p in enumerate(probability.tolist()):
        main = p.index(max(p))
        rises = [p[i] - min(p[min(i, main) : max(i, main) + 1]) for i in range(9)]
        assert float(found.prominence[row]) == pytest.approx(max(rises), abs=1e-6)
        for where, bin_ in ((found.first, main), (found.second, rises.index(max(rises)) if max(rises) > 0 else main)):
            near = [i for i in (bin_ - 1, bin_, bin_ + 1) if 0 <= i < 9]
            mean = sum(p[i] * float(value[i]) for i in near) / sum(p[i] for i in near)
            assert float(where[row]) == pytest.approx(mean, rel=1e-4)


def test_one_peak_has_no_second():
    found = peaks(torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1]), torch.arange(5.0))
    assert float(found.prominence) == 0
    assert float(found.first) == float(found.second) == pytest.approx(2.0)


@pytest.mark.parametrize("coder", [IntegralCoder(reg_max=8), FineGrainedCoder(reg_max=8)], ids=repr)
def test_sides_are_those_of_the_prior_that_predicts_the_object_best(data, coder):
    inputs = Inputs.of(data.split("train"), 128)
    sides = Sides.empty(len(inputs), coder)
    priors = priors_of(LAY, (128, 128))
    generator = torch.Generator().manual_seed(1)
    for batch in inputs.batches(LAY, most=2):
        params = torch.randn(len(batch.frames), len(priors), 36, generator=generator)
        logits = torch.randn(len(batch.frames), len(priors), 2, generator=generator)
        predictions = Predictions(logits, params).with_boxes(coder.decode(priors, params))
        sides.add(batch, predictions, coder)
        for image, rows in enumerate(batch.rows.tolist()):
            for entry, row in enumerate(rows):
                if row < 0:
                    continue
                best, value = None, -1.0
                object_ = batch.targets.boxes[image, entry].tolist()
                score = logits[image, :, batch.targets.labels[image, entry]].sigmoid().tolist()
                for prior, box in enumerate(predictions.boxes[image].tolist()):
                    quality = score[prior] * _iou(object_, box)
                    if quality > value + 1e-7:
                        best, value = prior, quality
                torch.testing.assert_close(sides.boxes[row], predictions.boxes[image, best])
                assert float(sides.score[row] * sides.iou[row]) == pytest.approx(value, abs=1e-5)
                probability = params[image, best].view(4, 9).softmax(-1)
                torch.testing.assert_close(sides.probability[row], probability)
                # the mean of the bins' places is the predicted side, where none of them was outside the image
                mean = (sides.probability[row] * sides.place[row]).sum(-1)
                inside = ((sides.place[row] > 0) & (sides.place[row] < 128)).all(-1)
                torch.testing.assert_close(mean[inside], sides.boxes[row][inside], atol=1e-2, rtol=1e-4)
    assert (sides.outwards().diff(dim=-1) >= 0).all()


def _iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_for_and_against_an_object_are_those_of_boxes_that_fit(data, classes):
    inputs = Inputs.of(data.split("train"), 128)
    coder = IntegralCoder(reg_max=8)
    sides = Sides.empty(len(inputs), coder)
    priors = priors_of(LAY, (128, 128))
    generator = torch.Generator().manual_seed(2)
    fitting = 0
    for batch in inputs.batches(LAY, most=2):
        shape = (len(batch.frames), len(priors))
        logits = torch.randn(*shape, classes, generator=generator)
        # every prior predicts an object, or what lies a little beside it
        which = torch.randint(batch.targets.boxes.shape[1], shape, generator=generator)
        boxes = batch.targets.boxes.gather(1, which.unsqueeze(-1).expand(-1, -1, 4))
        boxes = boxes + 6 * torch.randn(*shape, 4, generator=generator)
        predictions = Predictions(logits, torch.zeros(*shape, 36)).with_boxes(boxes)
        sides.add(batch, predictions, coder)
        for image, entry in (batch.rows >= 0).nonzero().tolist():
            row, label = int(batch.rows[image, entry]), int(batch.targets.labels[image, entry])
            object_ = batch.targets.boxes[image, entry].tolist()
            own, other = 0.0, (0.0, None)
            for prior, box in enumerate(boxes[image].tolist()):
                if _iou(object_, box) < 0.5:
                    continue
                fitting += 1
                scores = logits[image, prior].sigmoid().tolist()
                own = max(own, scores[label])
                other = max(other, *((scores[c], c) for c in range(classes) if c != label))
            assert float(sides.seen[row]) == pytest.approx(own, abs=1e-5)
            assert float(sides.rival[row]) == pytest.approx(other[0], abs=1e-5)
            assert other[1] is None or int(sides.rival_label[row]) == other[1]
    assert fitting > 100


def test_with_one_class_nothing_speaks_for_another(data):
    records = [replace(record, labels=torch.zeros_like(record.labels)) for record in data.split("train")]
    inputs = Inputs.of(records, 128)
    coder = IntegralCoder(reg_max=8)
    sides = Sides.empty(len(inputs), coder)
    priors = priors_of(LAY, (128, 128))
    for batch in inputs.batches(LAY, most=1):
        objects = batch.targets.boxes[0]
        boxes = torch.cat([objects, priors.boxes])[: len(priors)].unsqueeze(0)
        params = torch.zeros(1, len(priors), 36)
        sides.add(batch, Predictions(torch.ones(1, len(priors), 1), params).with_boxes(boxes), coder)
    assert sides.seen.tolist() == pytest.approx([float(torch.ones(()).sigmoid())] * len(inputs))
    assert sides.rival.tolist() == [0.0] * len(inputs)
