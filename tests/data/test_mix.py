"""Mosaic and mix-up keep every object with its pixels, its label and its crowd flag."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from boxwright.data.dataset import DetectionDataset
from boxwright.data.mix import Mix, mix_up, mosaic
from boxwright.data.synth import SyntheticScenes
from boxwright.data.transforms import FILL, Sanitize, training_transform

SIZES = st.tuples(st.integers(20, 90), st.integers(20, 90))


def _sample(seed: int, size: tuple[int, int]) -> dict:
    """An image of one colour, and in it a box of another; colour, label and crowd flag all tell the seed."""
    height, width = size
    image = torch.full((3, height, width), 20 * seed + 10, dtype=torch.uint8)
    image[0, height // 4 : height // 2, width // 4 : width // 2] = 255
    box = [[width // 4, height // 4, width // 2, height // 2]]
    return {
        "image": tv_tensors.Image(image),
        "boxes": _boxes(box, size),
        "labels": torch.tensor([seed]),
        "crowd": torch.tensor([seed % 2 == 1]),
    }


def _boxes(boxes: list[list[float]], size: tuple[int, int]) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(torch.tensor(boxes).float(), format="XYXY", canvas_size=size, clamping_mode=None)


@settings(max_examples=40, deadline=None)
@given(st.lists(SIZES, min_size=4, max_size=4), st.integers(0, 2**31))
def test_a_mosaic_keeps_objects_with_their_pixels(sizes, seed):
    torch.manual_seed(seed)
    result = mosaic([_sample(index, size) for index, size in enumerate(sizes)], 64)
    assert result["image"].shape == (3, 128, 128)
    kept = Sanitize(min_visible=0.0, min_side=4.0)(result)
    assert len(kept["boxes"]) == len(kept["labels"]) == len(kept["crowd"])
    assert (kept["crowd"] == (kept["labels"] % 2 == 1)).all()
    for box, label in zip(kept["boxes"].as_subclass(torch.Tensor), kept["labels"], strict=True):
        x, y = ((box[:2] + box[2:]) / 2).long().tolist()
        red, green, _ = result["image"][:, y, x].tolist()
        assert red > 128  # inside the object
        assert abs(green - (20 * int(label) + 10)) <= 1  # of this image
    for label in range(4):  # each quarter shows its image
        assert (result["image"][1] == 20 * label + 10).any()


def test_the_four_images_meet_between_a_quarter_and_three_quarters_of_the_mosaic():
    whole = [_sample(index, (64, 64)) | {"boxes": _boxes([[0.0, 0, 64, 64]], (64, 64))} for index in range(4)]
    points = []
    for _ in range(200):
        boxes = mosaic(whole, 64)["boxes"].as_subclass(torch.Tensor)
        x, y = boxes[0, 2:].tolist()
        assert boxes.tolist() == [
            [x - 64, y - 64, x, y],
            [x, y - 64, x + 64, y],
            [x - 64, y, x, y + 64],
            [x, y, x + 64, y + 64],
        ]
        points.append([x, y])
    found = torch.tensor(points)
    assert (found.sort(dim=0).values - torch.linspace(32, 96, 200)[:, None]).abs().max() < 8
    assert found.T.corrcoef()[0, 1].abs() < 0.3


@settings(max_examples=20, deadline=None)
@given(SIZES, SIZES)
def test_mix_up_shows_both_and_keeps_all_objects(one, two):
    first, second = _sample(1, one), _sample(2, two)
    result = mix_up(first, second)
    assert result["image"].shape[-2:] == (max(one[0], two[0]), max(one[1], two[1]))
    assert result["labels"].tolist() == [1, 2]
    assert result["crowd"].tolist() == [True, False]
    both = torch.cat([first["boxes"], second["boxes"]]).as_subclass(torch.Tensor)
    torch.testing.assert_close(result["boxes"].as_subclass(torch.Tensor), both)
    assert int(result["image"][1, 0, 0]) == (30 + 50) // 2
    if one[0] > two[0]:
        assert int(result["image"][1, -1, 0]) == (30 + FILL[1]) // 2


def test_a_data_set_mixes_the_same_in_any_order():
    scenes = SyntheticScenes(6, 64)
    mixed = DetectionDataset(
        scenes, training_transform(64, scale_jitter=(0.8, 1.2)), scenes.draw, seed=3, mix=Mix(64, mosaic=0.7, mixup=0.5)
    )
    plain = DetectionDataset(scenes, training_transform(64, scale_jitter=(0.8, 1.2)), scenes.draw, seed=3)
    forward = [mixed[2, index] for index in range(6)]
    backward = [mixed[2, index] for index in reversed(range(6))][::-1]
    for one, other in zip(forward, backward, strict=True):
        torch.testing.assert_close(one.image, other.image)
        torch.testing.assert_close(one.boxes, other.boxes)
        assert len(one.boxes) == len(one.labels) == len(one.crowd)
        assert max(one.image.shape[-2:]) <= 64
    objects = [sum(len(data[epoch, i].boxes) for epoch in range(4) for i in range(6)) for data in (mixed, plain)]
    assert objects[0] > 1.5 * objects[1]
