import pytest
import torch

from boxwright.structures import Assignment, Detections, Level, Priors, Targets
from other_defaults import other_defaults


def _target(boxes, labels, **extra):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64), **extra}


def test_targets_pad_and_unpad():
    targets = Targets.from_list(
        [
            _target([[0.0, 0, 2, 2], [1, 1, 3, 3]], [1, 0], iscrowd=torch.tensor([0, 1])),
            _target([], []),
        ],
        pad_to_multiple=4,
    )
    assert targets.boxes.shape == (2, 4, 4)
    assert targets.objects.tolist() == [[True, False, False, False], [False] * 4]
    first, second = targets.to_list()
    assert first["labels"].tolist() == [1, 0]
    assert first["iscrowd"].tolist() == [False, True]
    assert second["boxes"].shape == (0, 4)
    assert len(targets[1]) == 1
    assert targets[-1].valid.sum() == 0


def test_targets_are_float32_whatever_torch_s_default():
    with other_defaults("cpu"):
        assert Targets.from_list([_target([[0.0, 0, 2, 2]], [1])]).boxes.dtype == torch.float32


def test_a_batch_without_objects_has_no_columns():
    assert Targets.from_list([_target([], [])]).boxes.shape == (1, 0, 4)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            {"boxes": torch.zeros(2, 3), "labels": torch.zeros(2, dtype=torch.int64)},
            r"targets\[0\]\['boxes'\].*\(2, 3\)",
        ),
        ({"boxes": torch.zeros(2, 4), "labels": torch.zeros(1, dtype=torch.int64)}, r"labels.*\(1,\)"),
        ({"boxes": torch.tensor([[3.0, 0, 1, 1]]), "labels": torch.tensor([0])}, "inverted"),
        ({"boxes": torch.tensor([[0.0, 0, float("nan"), 1]]), "labels": torch.tensor([0])}, "finite"),
        ({"boxes": torch.tensor([[0.0, 0, 1, 1]]), "labels": torch.tensor([-1])}, "negative class"),
        ({"boxes": torch.tensor([[0.0, 0, 1, 1]]), "labels": torch.tensor([0.5])}, "must be integers"),
        ({"boxes": torch.zeros(0, 4)}, r"targets\[0\] must have 'boxes' and 'labels', it has 'boxes'"),
    ],
)
def test_wrong_targets_are_named(target, words):
    with pytest.raises(ValueError, match=words):
        Targets.from_list([target])
    with pytest.raises(ValueError, match="a list with one mapping per image"):
        Targets.from_list(target)


def test_assignment_reads_labels_and_boxes():
    targets = Targets.from_list([_target([[0.0, 0, 2, 2], [1, 1, 3, 3]], [5, 7])])
    assignment = Assignment(torch.tensor([[1, -1, -2, 0]]), torch.ones(1, 4))
    assert assignment.labels(targets).tolist() == [[7, -1, -2, 5]]
    assert assignment.boxes(targets)[0, 0].tolist() == [1, 1, 3, 3]
    assert assignment.positive.tolist() == [[True, False, False, True]]
    assert assignment.ignored.tolist() == [[False, False, True, False]]


def test_assignment_of_a_batch_without_objects():
    targets = Targets.from_list([_target([], [])])
    assignment = Assignment(torch.tensor([[-1, -2]]), torch.zeros(1, 2))
    assert assignment.labels(targets).tolist() == [[-1, -2]]
    assert assignment.boxes(targets).shape == (1, 2, 4)


def test_detections_read_as_a_list_of_dictionaries():
    detections = Detections(
        torch.zeros(2, 3, 4), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64), torch.tensor([2, 0])
    )
    assert [len(output["scores"]) for output in detections] == [2, 0]
    assert len(detections.to("cpu")) == 2


def test_priors_of_each_image_are_taken_by_index():
    shared = Priors(torch.arange(12.0).view(3, 4), torch.arange(6.0).view(3, 2), torch.tensor([8.0, 8, 16]))
    index = torch.tensor([[2, 0], [1, 1]])
    taken = shared.take(index)
    assert taken.boxes[:, :, 0].tolist() == [[8, 0], [4, 4]]
    assert taken.centers[:, :, 0].tolist() == [[4, 0], [2, 2]]
    assert taken.strides.tolist() == [[16, 8], [8, 8]]
    again = taken.take(torch.tensor([[1], [0]]))
    assert again.boxes[:, :, 0].tolist() == [[0], [4]]
    assert again.strides.tolist() == [[8], [8]]
    assert len(again) == 1


@pytest.mark.parametrize(("centers", "strides"), [((7, 4), (7,)), ((6, 2), (7,)), ((7, 2), (6,)), ((7, 2), ())])
def test_priors_fit_together(centers, strides):
    with pytest.raises(ValueError, match=r"\(…, L, 2\) and \(…, L\), got \(7, 4\), "):
        Priors(torch.zeros(7, 4), torch.zeros(centers), torch.zeros(strides))


def test_levels_hold_all_priors():
    boxes = torch.zeros(7, 4)
    with pytest.raises(ValueError, match=r"levels of 4 \+ 2 priors do not fit boxes of shape \(7, 4\)"):
        Priors(boxes, boxes[:, :2], boxes[:, 0], (Level(2, 2, 1, 8.0), Level(1, 1, 2, 16.0)))
