import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from boxwright.data.transforms import (
    FILL,
    IoUCrop,
    Photometric,
    Resize,
    Sanitize,
    ZoomCrop,
    evaluation_transform,
    fitted,
    training_transform,
)


def sample_of(height: int, width: int, boxes: torch.Tensor) -> dict:
    """A sample whose labels and crowd flags tell which box they belong to."""
    index = torch.arange(len(boxes))
    return {
        "image": tv_tensors.Image(torch.randint(256, (3, height, width), dtype=torch.uint8)),
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width), clamping_mode=None),
        "labels": index,
        "crowd": index % 3 == 1,
    }


@st.composite
def samples(draw) -> dict:
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    share = st.floats(-0.25, 1.25, width=32)
    corners = draw(st.lists(st.tuples(share, share, share, share), max_size=6))
    scale = torch.tensor([width, height, width, height])
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4) * scale
    low, high = boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])
    return sample_of(height, width, torch.cat([low, high], dim=1))


options = st.fixed_dictionaries(
    {
        "size": st.sampled_from([16, 48, (20, 33)]),
        "horizontal_flip": st.sampled_from([0.0, 0.5]),
        "vertical_flip": st.sampled_from([0.0, 0.5]),
        "scale_jitter": st.sampled_from([None, (0.3, 2.5), (1.0, 1.0)]),
        "expand": st.sampled_from([0.0, 0.7]),
        "iou_crop": st.sampled_from([0.0, 1.0]),
        "photometric": st.sampled_from([0.0, 1.0, 3.0]),
    }
)


@settings(max_examples=150, deadline=None)
@given(samples(), options, st.integers(0, 1000))
def test_boxes_labels_and_crowd_flags_stay_together(sample, options, seed):
    torch.manual_seed(seed)
    out = training_transform(**options)(sample)

    height, width = out["image"].shape[-2:]
    boxes, labels = out["boxes"].as_subclass(torch.Tensor), out["labels"]
    assert out["image"].dtype == torch.uint8
    assert boxes.shape == (len(labels), 4)
    assert torch.equal(out["crowd"], labels % 3 == 1)
    assert labels.unique().numel() == labels.numel()
    assert (boxes >= 0).all()
    assert (boxes[:, 0::2] <= width).all()
    assert (boxes[:, 1::2] <= height).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    size = options["size"]
    short, long = size if isinstance(size, tuple) else (size, size)
    assert min(height, width) <= short
    assert max(height, width) <= long


@pytest.mark.parametrize(("expand", "iou_crop"), [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_the_boxes_follow_the_pixels(expand, iou_crop):
    """Each object is a block of its own colour, which must fill its box and nothing else after every change."""
    transform = training_transform(64, vertical_flip=0.5, scale_jitter=(0.7, 2.0), expand=expand, iou_crop=iou_crop)
    boxes = torch.tensor([[10.0, 20, 50, 60], [60, 10, 110, 30], [70, 50, 90, 70]])
    survivors = 0
    for seed in range(30):
        torch.manual_seed(seed)
        sample = sample_of(80, 120, boxes)
        sample["image"].zero_()
        for channel, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
            sample["image"][channel, y1:y2, x1:x2] = 255
        out = transform(sample)
        for label, box in zip(out["labels"].tolist(), out["boxes"].tolist(), strict=True):
            rows, columns = torch.where(out["image"][label] > 127)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert torch.tensor(box).sub(torch.tensor(extent)).abs().max() <= 1.01
            survivors += 1
    assert survivors > 30


def test_an_object_cut_to_a_sliver_is_dropped_and_a_crowd_region_is_kept():
    boxes = torch.tensor([[-95.0, 0, 5, 10], [-50, 0, 50, 10], [-95, 0, 5, 10], [3, 3, 3, 9]])
    sample = sample_of(100, 100, boxes)
    sample["crowd"] = torch.tensor([False, False, True, False])

    out = Sanitize(min_visible=0.1)(sample)

    assert out["labels"].tolist() == [1, 2]
    assert out["boxes"].tolist() == [[0, 0, 50, 10], [0, 0, 5, 10]]
    assert out["crowd"].tolist() == [False, True]


@pytest.mark.parametrize("size", [64, (40, 60)])
def test_evaluation_only_resizes(size):
    sample = sample_of(50, 100, torch.tensor([[10.0, 5, 60, 45]]))

    out = evaluation_transform(size)(sample)

    height, width = fitted(50, 100, size)
    assert out["image"].shape == (3, height, width)
    scale = torch.tensor([width / 100, height / 50]).repeat(2)
    assert torch.allclose(out["boxes"].as_subclass(torch.Tensor), sample["boxes"].as_subclass(torch.Tensor) * scale)


def test_fitted_bounds_both_sides():
    assert fitted(480, 640, 320) == (240, 320)
    assert fitted(640, 480, 320) == (320, 240)
    assert fitted(480, 640, (800, 1333)) == (800, 1067)
    assert fitted(400, 1000, (800, 1333)) == (533, 1333)
    assert fitted(1, 1000, 320) == (1, 320)


def test_zoom_of_one_is_the_plain_resize():
    sample = sample_of(33, 70, torch.tensor([[3.0, 4, 50, 30]]))

    zoomed, plain = ZoomCrop(48, (1.0, 1.0))(sample), Resize(48)(sample)

    assert torch.equal(zoomed["image"], plain["image"])
    assert torch.equal(zoomed["boxes"], plain["boxes"])


def test_zoom_out_leaves_the_rest_to_padding_and_zoom_in_fills_the_frame():
    sample = sample_of(60, 80, torch.zeros(0, 4))

    assert ZoomCrop(40, (0.5, 0.5))(sample)["image"].shape == (3, 15, 20)
    assert ZoomCrop(40, (2.0, 2.0))(sample)["image"].shape == (3, 40, 40)
    assert ZoomCrop((30, 40), (2.0, 2.0))(sample)["image"].shape == (3, 30, 40)
    with pytest.raises(ValueError, match="low <= high"):
        ZoomCrop(40, (2.0, 0.5))


def test_the_zoom_is_log_uniform_and_its_part_anywhere():
    image = sample_of(60, 80, torch.zeros(0, 4))["image"]
    out, into = ZoomCrop((600, 800), (0.25, 1.0)), ZoomCrop((600, 800), (2.0, 2.0))

    zooms = torch.tensor([out.make_params([image])["size"] for _ in range(400)]) / torch.tensor([600, 800])
    parts = [into.make_params([image]) for _ in range(400)]

    uniform = (zooms.log2() / 2 + 1).mean(dim=1).sort().values
    assert (uniform - torch.linspace(0, 1, 400)).abs().max() < 0.1
    assert all((part["height"], part["width"]) == (30, 40) for part in parts)
    corners = torch.tensor([[part["top"], part["left"]] for part in parts]) / torch.tensor([30, 40])
    assert (corners.sort(dim=0).values - torch.linspace(0, 1, 400)[:, None]).abs().max() < 0.1
    assert corners.T.corrcoef()[0, 1].abs() < 0.2


def test_the_expanded_canvas_has_up_to_four_times_the_sides_and_the_image_is_anywhere_on_it():
    transform = training_transform(64, expand=1.0, horizontal_flip=0.0)
    sample = sample_of(32, 32, torch.tensor([[0.0, 0, 32, 32]]))
    found = [transform(sample) for _ in range(200)]

    boxes = torch.cat([out["boxes"].as_subclass(torch.Tensor) for out in found]) / 64
    sides = 1 / (boxes[:, 2:] - boxes[:, :2]).mean(dim=1)
    assert (sides.sort().values - torch.linspace(1, 4, 200)).abs().max() < 0.4
    places = boxes[:, :2] / (1 - 1 / sides).clamp(min=0.02)[:, None]
    assert places.mean(dim=0).sub(0.5).abs().max() < 0.1
    assert places.T.corrcoef()[0, 1].abs() < 0.3
    far = next(out["image"][:, 0, 0] for out, box in zip(found, boxes, strict=True) if (box[:2] > 0.1).all())
    assert far.tolist() == [*FILL]


@pytest.mark.parametrize("minimum", [0.0, 0.3])
def test_iou_crop_keeps_an_object_that_overlaps_enough(minimum):
    torch.manual_seed(1)
    dropped = 0
    boxes = torch.tensor([[40.0, 20, 150, 130], [150, 100, 190, 150]])
    sample = sample_of(160, 200, boxes)
    crop = IoUCrop(sampler_options=[minimum])
    for _ in range(20):
        params = crop.make_params([sample["image"], sample["boxes"]])
        left, top = params["left"], params["top"]
        part = torch.tensor([[left, top, left + params["width"], top + params["height"]]])
        clipped = torch.cat([boxes[:, :2].maximum(part[:, :2]), boxes[:, 2:].minimum(part[:, 2:])], dim=1)
        inner = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0).prod(1)
        union = params["height"] * params["width"] + (boxes[:, 2:] - boxes[:, :2]).prod(1) - inner
        assert (inner / union).max() >= minimum
        assert 0.45 < params["width"] / params["height"] < 2.1
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centres > part[:, :2]) & (centres < part[:, 2:])).all(dim=1)
        assert torch.equal(inside, params["is_within_crop_area"])
        assert inside.any()
        dropped += int((~inside).sum())
    assert dropped > 0


def test_photometric_keeps_grey_grey_and_does_nothing_at_strength_zero():
    grey = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
    colour = tv_tensors.Image(torch.randint(256, (3, 16, 16), dtype=torch.uint8))
    changed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        out = Photometric(1.0)(tv_tensors.Image(grey))
        assert (out.float() - out.float().mean(dim=0)).abs().max() <= 0.5
        changed += not torch.equal(Photometric(1.0)(colour), colour)
        assert torch.equal(Photometric(0.0)(colour), colour)
    assert changed > 10


def test_photometric_draws_from_ssds_ranges_and_turns_all_colours_alike():
    """Measured on colours: where their mean goes, and by which angle and factor their distance from grey turns."""
    image = torch.tensor([[[200]], [[90]], [[60]]], dtype=torch.uint8)
    colours = torch.tensor([[200.0, 90, 60], [30, 180, 120], [10, 20, 240]]).T
    plane = torch.tensor([[1.0, -0.5, -0.5], [0.0, 0.75**0.5, -(0.75**0.5)]])  # hue is an angle here, red is at 0
    before, drawn = plane @ colours, []
    for _ in range(600):
        params = Photometric(1.0).make_params([tv_tensors.Image(image)])
        after = params["matrix"] @ colours + params["shift"]
        turned = plane @ after
        angle = torch.atan2(turned[1], turned[0]) - torch.atan2(before[1], before[0])
        angle = torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi
        factor = turned.norm(dim=0) / before.norm(dim=0)
        slope = (after[:, 0].mean() - after[:, 1].mean()) / (colours[:, 0].mean() - colours[:, 1].mean())
        shift = after.mean(dim=0) - 127.5 - slope * (colours.mean(dim=0) - 127.5)
        for same in (angle, factor, shift):
            assert same.sub(same[0]).abs().max() < 1e-3
        drawn.append([slope, factor[0] / slope, shift[0], angle[0] * 180 / torch.pi])

    for values, (neutral, reach) in zip(torch.tensor(drawn).T, ((1, 0.5), (1, 0.5), (0, 32), (0, 18)), strict=True):
        away = (values - neutral) / reach
        used = away.abs() > 1e-3
        assert 0.4 < used.float().mean() < 0.6
        uniform = torch.linspace(-1, 1, int(used.sum()))
        assert (away[used].sort().values - uniform).abs().max() < 0.2
