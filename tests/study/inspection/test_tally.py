"""Counts against a count of one object and one prior at a time, and against the known facts of real data."""

import numpy as np
import pytest
import torch

from boxwright.assigners import ATSSAssigner, MaxIoUAssigner, SSDAssigner
from boxwright.boxes import AnchorGenerator
from boxwright.data.dataset import DetectionDataset
from boxwright.data.index import open_dataset
from boxwright.data.transforms import evaluation_transform
from boxwright.errors import PartError
from boxwright.recipes import build_detector, load_recipe
from boxwright.structures import Assignment, Priors
from boxwright.study.inspection.inputs import Inputs, priors_of
from boxwright.study.inspection.tally import Tally
from inspect_scenes import max_iou, write_dataset

LAY = AnchorGenerator.retinanet((8, 16, 32), octave_base=2.0, scales_per_octave=1, ratios=(1.0,), offset=0.5)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return open_dataset(write_dataset(tmp_path_factory.mktemp("data") / "set"))


def tally_of(inputs, assigner, lay=LAY, **options):
    tally = Tally.empty(len(inputs), len(lay.strides))
    for batch in inputs.batches(lay, **options):
        tally.add(batch, assigner)
    return tally


@pytest.mark.parametrize("size", [128, 96])
def test_counts_are_those_of_a_brute_force_count(index, size):
    assigner = MaxIoUAssigner(0.3, 0.3, low_quality="none")
    inputs = Inputs.of(index.split("train"), size)
    tally = tally_of(inputs, assigner)
    priors = priors_of(LAY, (size, size))
    level = [number for number, grid in enumerate(priors.levels) for _ in range(grid.size)]
    expected = Tally.empty(len(inputs), 3)
    row = 0
    for frame in inputs.frames:
        boxes = frame.boxes[~frame.crowd].tolist()
        (region,) = frame.boxes[frame.crowd].tolist() or [(0, 0, 0, 0)]
        hidden = [_covered(prior, region) for prior in priors.boxes.tolist()]
        seen = [
            (-9e9, -9e9, -9e9, -9e9) if gone else prior
            for gone, prior in zip(hidden, priors.boxes.tolist(), strict=True)
        ]
        owners = max_iou(boxes, seen, 0.3)
        for prior, owner in enumerate(owners):
            kind = 1 if hidden[prior] else 2 if owner is None else 0
            expected.priors[level[prior], kind] += 1
            if owner is not None:
                expected.positives[row + owner, level[prior]] += 1
        for number, box in enumerate(boxes):
            alone = max_iou([box], seen, 0.3)
            expected.wanted[row + number] = sum(owner == 0 for owner in alone)
            pairs = zip(alone, owners, strict=True)
            expected.lost[row + number] = sum(a == 0 and o is not None and o != number for a, o in pairs)
        row += len(boxes)
    assert expected.lost.sum() > 0
    assert (expected.positives.sum(1) == 0).sum() > 1
    assert expected.priors[:, 1].sum() > 0
    for name in ("positives", "wanted", "lost", "priors"):
        np.testing.assert_array_equal(getattr(tally, name), getattr(expected, name), err_msg=name)


def _covered(prior, region):
    width = max(0.0, min(prior[2], region[2]) - max(prior[0], region[0]))
    height = max(0.0, min(prior[3], region[3]) - max(prior[1], region[1]))
    return width * height / ((prior[2] - prior[0]) * (prior[3] - prior[1])) > 0.5


@pytest.mark.parametrize("assigner", [ATSSAssigner(), SSDAssigner(), MaxIoUAssigner()], ids=lambda a: type(a).__name__)
def test_counts_do_not_depend_on_the_batches(index, assigner):
    inputs = Inputs.of(index.split("train"), 128)
    together, single = (tally_of(inputs, assigner, most=most) for most in (64, 1))
    for name in ("positives", "wanted", "lost", "priors"):
        np.testing.assert_array_equal(getattr(together, name), getattr(single, name))
    assert together.positives.sum() == together.priors[:, 0].sum()
    assert together.wanted.sum() - together.lost.sum() <= together.positives.sum()


def test_boxes_are_those_that_the_evaluation_transform_gives(index):
    for size in (96, (50, 120), 20):
        inputs = Inputs.of(index.split("train"), size)
        dataset = DetectionDataset(index.split("train"), evaluation_transform(size))
        for frame, sample in zip(inputs.frames, (dataset[i] for i in range(len(dataset))), strict=True):
            assert frame.size == tuple(sample.image.shape[-2:])
            torch.testing.assert_close(frame.boxes, sample.boxes)
            assert torch.equal(frame.labels, sample.labels)
            assert torch.equal(frame.crowd, sample.crowd)
    assert inputs.vanished == 3  # of "b.png" at a sixth of its size


def test_priors_are_those_of_the_network():
    recipe = load_recipe("retinanet-tiny")
    detector = build_detector(recipe, ["a"], pretrained=False).eval()
    for canvas in ((320, 320), (96, 160)):
        with torch.no_grad():
            _, priors = detector.predict(torch.zeros(1, 3, *canvas))
        ours: Priors = priors_of(detector.priors, canvas)
        assert torch.equal(ours.boxes, priors.boxes)
        assert ours.levels == priors.levels


def test_small_fish_reach_no_anchor_of_stride_8(shared):
    """What the aquarium set is known for; under the usual threshold most of its small objects get no anchor."""
    records = open_dataset(shared / "data" / "aquarium").split("test")
    recipe = load_recipe("retinanet-tiny")
    lay = build_detector(recipe, ["a"], pretrained=False).priors
    inputs = Inputs.of(records, recipe.data.size)
    width, height = (inputs.boxes[:, 2:] - inputs.boxes[:, :2]).T
    small = np.sqrt(width * height) < 16
    nobody = tally_of(inputs, MaxIoUAssigner(low_quality="none"), lay).positives.sum(1) == 0
    assert nobody[small].mean() > 0.95
    assert nobody[~small].mean() < 0.6
    assert (tally_of(inputs, MaxIoUAssigner(), lay).positives.sum(1) == 0).sum() < 20


def test_bccd_has_cells_boxed_twice_and_small_platelets(shared):
    index = open_dataset(shared / "data" / "bccd")
    inputs = Inputs.of(index.split("train"), 320)
    names = {index.split("train").name(int(i)) for i in inputs.image[inputs.crowding > 0.8]}
    assert {f"BloodImage_{number}.jpg" for number in ("00013", "00020", "00100", "00251", "00403")} <= names
    side = np.sqrt((inputs.boxes[:, 2] - inputs.boxes[:, 0]) * (inputs.boxes[:, 3] - inputs.boxes[:, 1]))
    median = {name: np.median(side[inputs.labels == label]) for label, name in enumerate(index.class_names)}
    assert median["Platelets"] < 0.5 * median["RBC"] < median["WBC"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda a: None, r"must return an Assignment\(gt_index, score\), got NoneType"),
        (
            lambda a: Assignment(a.gt_index.clamp(max=0) + 900, a.score),
            "matched prior 0 of image 0 .* which is no obj",
        ),
        (lambda a: a.gt_index[99999], r"IndexError: .* in .*test_tally\.py, line \d+"),
    ],
)
def test_what_an_assigner_of_anybodys_must_not_answer_is_said(index, answer, said):
    with pytest.raises(PartError, match=said):
        tally_of(Inputs.of(index.split("train"), 96), lambda *scene: answer(ATSSAssigner()(*scene)))
