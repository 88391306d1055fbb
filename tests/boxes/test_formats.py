"""Conversions between box formats, area and clipping."""

import pytest
import torch
from torchvision.ops import box_convert as torchvision_convert

from boxwright.boxes import box_area, box_convert, clip_boxes, scale_boxes

FORMATS = ["xyxy", "xywh", "cxcywh"]


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_conversions_agree_with_torchvision_and_return_a_new_tensor(source: str, target: str) -> None:
    boxes = torch.rand(3, 7, 4, dtype=torch.float64)
    converted = box_convert(boxes, source, target)
    torch.testing.assert_close(converted, torchvision_convert(boxes, source, target))
    torch.testing.assert_close(box_convert(converted, target, source), boxes)
    assert converted.data_ptr() != boxes.data_ptr()


def test_unknown_formats_and_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="'xyyx'"):
        box_convert(torch.zeros(1, 4), "xyyx", "xyxy")
    with pytest.raises(ValueError, match=r"\(2, 5\)"):
        box_convert(torch.zeros(2, 5), "xyxy", "xywh")


def test_area_of_an_inverted_box_is_zero() -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 3.0], [2.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 5.0]])
    assert box_area(boxes).tolist() == [6.0, 0.0, 0.0]


def test_clipping_takes_one_size_or_a_size_per_image() -> None:
    boxes = torch.tensor([[-5.0, -5.0, 50.0, 50.0]])
    assert clip_boxes(boxes, (20, 30)).tolist() == [[0.0, 0.0, 30.0, 20.0]]
    sizes = torch.tensor([[[20, 30]], [[40, 10]]])
    assert clip_boxes(boxes.expand(2, 1, 4), sizes).tolist() == [[[0.0, 0.0, 30.0, 20.0]], [[0.0, 0.0, 10.0, 40.0]]]


def test_scaling_takes_boxes_of_any_format_sizes_and_points() -> None:
    boxes = torch.arange(8.0).view(2, 4)
    torch.testing.assert_close(scale_boxes(boxes, 2, 10), boxes * torch.tensor([2.0, 10, 2, 10]))
    torch.testing.assert_close(scale_boxes(boxes[:, :2], 2, 10), boxes[:, :2] * torch.tensor([2.0, 10]))
    assert scale_boxes(torch.zeros(3, 0, 4), 2, 3).shape == (3, 0, 4)
