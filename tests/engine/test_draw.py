"""Drawing: what can be said without an eye."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from boxwright.engine import draw

NAMES = ["cell", "platelet"]


def picture(width=640, height=480, color=(120, 120, 120)):
    return Image.new("RGB", (width, height), color)


def test_small_pictures_are_enlarged_and_large_ones_keep_their_size():
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), NAMES
    assert draw.draw_boxes(picture(640, 480), *none).width == 1280
    large = draw.draw_boxes(picture(2400, 1600), *none)
    assert large.width == 2400
    assert large.height > 1600  # the legend is below, not over, the picture


@pytest.mark.parametrize("size", [(8000, 100), (100, 8000)])
def test_a_strip_is_not_filled_by_the_pen(size):
    box = torch.tensor([[0.1, 0.1, 0.9, 0.9]]) * torch.tensor([*size, *size])
    drawn = draw.draw_boxes(picture(*size), box, torch.tensor([0]), ["cell"])
    untouched = (np.asarray(drawn)[: size[1], : size[0]] == 120).all(-1)
    assert untouched.mean() > 0.9


def test_the_legend_of_a_tiny_picture_can_be_read():
    for found in (0, 1):
        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])[:found]
        drawn = np.asarray(
            draw.draw_boxes(picture(1, 1), boxes, torch.zeros(found, dtype=torch.int64), ["a long name"])
        )
        ink = (drawn < 200).all(-1)
        assert ink.any(0).sum() > 40
        assert ink[8:].any(1).sum() >= 7
        assert not ink[:, -4:].any()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_any_mode_is_drawn_and_the_original_stays(mode):
    image = Image.new(mode, (60, 40))
    before = image.tobytes()
    drawn = draw.draw_boxes(image, torch.tensor([[5.0, 5, 30, 30]]), torch.tensor([0]), NAMES)
    assert drawn.mode == "RGB"
    assert image.tobytes() == before


def test_a_box_has_the_colour_of_its_class_where_it_lies():
    box = torch.tensor([[100.0, 100, 300, 200]])
    for label in (0, 1):
        drawn = draw.draw_boxes(picture(1000, 500), box, torch.tensor([label]), NAMES, torch.tensor([0.7]))
        assert drawn.getpixel((101, 150)) == draw.class_color(label)
        assert drawn.getpixel((200, 150)) == (120, 120, 120)


def test_plates_never_cover_each_other(monkeypatch):
    """A hundred boxes in a heap: every plate that was placed is free of the others and inside the picture."""
    seen = []
    label = draw._label

    def spy(*arguments):
        label(*arguments)
        seen[:] = arguments[-1]

    monkeypatch.setattr(draw, "_label", spy)
    corner = torch.rand(100, 2) * 300
    boxes = torch.cat([corner, corner + 20 + torch.rand(100, 2) * 100], dim=1)
    draw.draw_boxes(picture(), boxes, torch.arange(100) % 2, NAMES, torch.rand(100))
    assert 20 < len(seen) < 100
    assert not any(a.overlaps(b) for a, b in itertools.combinations(seen, 2))
    assert all(plate.x1 >= 0 and plate.y1 >= 0 for plate in seen)


def test_strange_boxes_are_drawn():
    boxes = torch.tensor([[5.0, 5, 5, 5], [-50, -50, 5000, 5000], [30, 30, 20, 20]])
    drawn = draw.draw_boxes(picture(), boxes, torch.tensor([0, 1, 40]), [str(i) for i in range(41)], torch.rand(3))
    assert drawn.width == 1280


def test_neighbouring_classes_differ_in_colour():
    colors = [draw.class_color(label) for label in range(16)]
    assert len(set(colors)) == 16
    assert min(sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in itertools.combinations(colors, 2)) > 60


def test_names_beyond_ascii_are_drawn():
    box, label = torch.tensor([[100.0, 100, 300, 200]]), torch.tensor([0])
    pictures = [draw.draw_boxes(picture(), box, label, [name]).tobytes() for name in ("Käfer", "Kafer")]
    assert pictures[0] != pictures[1]
