"""Box coders against mmdetection, torchvision, Paddle, ultralytics, YOLOX and the first R-CNN code."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwright.boxes import (
    AnchorGenerator,
    DeltaCoder,
    DistanceCoder,
    FineGrainedCoder,
    IntegralCoder,
    PointCoder,
    PointGenerator,
    YOLOCoder,
    YOLOv5Coder,
    clip_boxes,
    cxcywh_to_xyxy,
    xyxy_to_cxcywh,
)
from boxwright.structures import Priors
from boxwright.testing import check_never_waits
from goldens import golden_cases, load_case

LAST_PIXEL = torch.tensor([0.0, 0.0, 1.0, 1.0])  # older code ends a box at its last pixel, not after it
CODERS = [
    DeltaCoder(),
    DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2), means=(0.1, 0.0, -0.2, 0.0), clamp="upper"),
    DistanceCoder(),
    DistanceCoder(normalize=False),
    PointCoder(),
    YOLOCoder(),
    YOLOv5Coder(),
]


def _priors(boxes: Tensor, stride: float = 1.0) -> Priors:
    boxes = boxes.float()
    return Priors(boxes, (boxes[..., :2] + boxes[..., 2:]) / 2, torch.full((boxes.shape[-2],), stride))


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected.float().reshape(actual.shape), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("file", golden_cases("assigners/coder_delta_xywh"))
def test_deltas_equal_mmdetection_torchvision_and_paddle(file):
    case = load_case(file)
    means, stds = tuple(case["param_means"].tolist()), tuple(case["param_stds"].tolist())
    priors, boxes, deltas = _priors(case["in_boxes"]), case["in_gt_boxes"], case["in_deltas"]
    size = tuple(case["param_max_shape_hw"].tolist())
    coder = DeltaCoder(means, stds)
    _close(coder.encode(priors, boxes), case["out_mmdet_encode"])
    _close(coder.decode(priors, deltas), case["out_mmdet_decode"])
    _close(clip_boxes(coder.decode(priors, deltas), size), case["out_mmdet_decode_clip"])
    narrow = DeltaCoder(means, stds, max_ratio=10).decode(priors, deltas)
    _close(clip_boxes(narrow, size), case["out_mmdet_decode_ratio001"])
    shifted = DeltaCoder(means, stds, clamp="upper", max_shift=16)
    _close(shifted.decode(priors, deltas), case["out_mmdet_decode_ctrclamp16"])

    coder = DeltaCoder(stds=tuple(1 / weight for weight in case["param_tv_weights"].tolist()), clamp="upper")
    for name in ("tv", "paddle"):
        _close(coder.encode(priors, boxes), case[f"out_{name}_encode"])
        _close(coder.decode(priors, deltas), case[f"out_{name}_decode"])
    _close(clip_boxes(coder.decode(priors, deltas), size), case["out_paddle_decode_clip"])


@pytest.mark.parametrize("file", golden_cases("assigners/coder_delta_xywh"))
def test_deltas_of_boxes_that_end_at_their_last_pixel(file):
    """R-CNN, AP-Loss and mmdetection's legacy coder are our coder on `(x1, y1, x2 + 1, y2 + 1)`.

    Not copied: R-CNN and the legacy coder leave the 1 (or half of it) in the decoded box, and without an upper clamp
    exp overflows, so cases compare below our clamp.
    """
    case = load_case(file)
    priors, boxes = _priors(case["in_boxes"] + LAST_PIXEL), case["in_gt_boxes"] + LAST_PIXEL
    deltas = case["in_deltas"]
    height, width = case["param_max_shape_hw"].tolist()
    _close(DeltaCoder().encode(priors, boxes), case["out_frcnn_encode"])
    wide = DeltaCoder(max_ratio=1e4)
    decoded = wide.decode(priors, 0.3 * deltas)
    _close(decoded, case["out_frcnn_decode_of_0p3_deltas"])
    _close(clip_boxes(decoded, (height - 1, width - 1)), case["out_frcnn_decode_clipped"])
    if case.param("num_classes") > 1:
        return
    means, stds = tuple(case["param_means"].tolist()), tuple(case["param_stds"].tolist())
    legacy = DeltaCoder(means, stds)
    _close(legacy.encode(priors, boxes), case["out_mmdet_legacy_encode"])
    decoded = legacy.decode(priors, deltas) - 0.5
    _close(decoded, case["out_mmdet_legacy_decode"])
    _close(clip_boxes(decoded, (height - 1, width - 1)), case["out_mmdet_legacy_decode_clip"])
    ap_loss = DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2), max_ratio=1e4)
    decoded = ap_loss.decode(priors, deltas) - LAST_PIXEL
    whole_pixel = (decoded[:, 2:] >= decoded[:, :2]).all(dim=1)  # below one pixel AP-Loss writes an empty box
    assert whole_pixel.any()
    expected = case["out_aploss_decode"][whole_pixel]
    _close(decoded[whole_pixel], expected)
    clipped = clip_boxes(decoded, (height - 1, width - 1))[whole_pixel]
    _close(clipped, case["out_aploss_decode_clipped"][whole_pixel])


@pytest.mark.parametrize("file", golden_cases("assigners/coder_distance"))
def test_distances_equal_mmdetection_and_ultralytics(file):
    case = load_case(file)
    points = case["in_points"]
    priors = Priors(torch.cat([points, points], dim=-1), points, torch.ones(len(points)))
    boxes, most = case["in_boxes"], case.param("max_dis")
    decoded = DistanceCoder(normalize=False).decode(priors, case["in_distances"])
    _close(decoded, case["out_decode"])
    _close(clip_boxes(decoded, tuple(case["param_max_shape_hw"].tolist())), case["out_decode_clip"])
    _close(decoded, case["out_ultra_dist2bbox_xyxy"])
    _close(xyxy_to_cxcywh(decoded), case["out_ultra_dist2bbox_xywh"])
    _close(DistanceCoder(normalize=False).encode(priors, boxes), case["out_encode"])
    bounded = DistanceCoder(normalize=False, max_distance=most, margin=case.param("eps"))
    _close(bounded.encode(priors, boxes), case["out_encode_maxdis"])
    bounded = DistanceCoder(normalize=False, max_distance=most, margin=0.01)
    _close(bounded.encode(priors, boxes), case["out_ultra_bbox2dist"])


@pytest.mark.parametrize("file", golden_cases("assigners/coder_dfl_integral"))
def test_integrals_equal_gfl_and_ultralytics(file):
    case = load_case(file)
    distances = IntegralCoder(case.param("reg_max")).distances(case["in_logits"])
    torch.testing.assert_close(distances, case["out_gfl_distance"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(distances, case["out_ultra_distance"], atol=1e-5, rtol=1e-5)


def test_integrals_count_strides_up_to_a_margin_below_the_last_bin():
    coder, priors = IntegralCoder(reg_max=4, margin=0.5), _priors(torch.tensor([[12.0, 12, 28, 28]]), stride=8.0)
    encoded = coder.encode(priors, torch.tensor([[12.0, 0, 120, 19]]))
    assert encoded.tolist() == [[1.0, 2.5, 3.5, 0.0]]  # the right side is too far, the lower one above the centre
    certain = 1e3 * torch.nn.functional.one_hot(torch.tensor([1, 0, 4, 2]), 5)
    assert coder.decode(priors, certain.reshape(1, 20)).tolist() == [[12.0, 20, 52, 36]]


@pytest.mark.parametrize("scale", [4.0, 6.0])
def test_fine_grained_sides_move_by_bins_of_the_priors_size(scale):
    """The middle bin leaves a side, the last ones move it by the whole size, the others by growing steps between."""
    coder, priors = FineGrainedCoder(reg_max=8, scale=scale), _priors(torch.tensor([[10.0, 20, 34, 68]]))
    certain = 1e3 * torch.nn.functional.one_hot(torch.tensor([4, 8, 0, 6]), 9)
    two_steps = (scale / 2 + 1) ** (2 / 3) - 1
    decoded = coder.decode(priors, certain.reshape(1, 36))
    _close(decoded, torch.tensor([[10, 20 - 48, 34 - 24, 68 + two_steps * 48 / scale]]))
    _close(coder.encode(priors, decoded), torch.tensor([[0, scale, -scale, two_steps]]))
    assert coder.encode(_priors(torch.full((1, 4), 9.0)), decoded).isfinite().all()
    for bins in (2, 7):
        with pytest.raises(ValueError, match=f"even and at least 4, .* got {bins}"):
            FineGrainedCoder(reg_max=bins).decode(priors, torch.zeros(1, 4 * (bins + 1)))


@pytest.mark.parametrize("file", golden_cases("assigners/coder_yolo"))
def test_yolo_boxes_equal_four_code_bases(file):
    case = load_case(file)
    stride = case.param("stride")
    priors = _priors(case["in_boxes"], float(case.param("mmdet_stride")))
    _close(YOLOCoder().activate(YOLOCoder().encode(priors, case["in_gt_boxes"])), case["out_mmdet_encode"])
    activated = case["in_mmdet_pred"]
    raw = torch.cat([activated[:, :2].double().logit(), activated[:, 2:].double()], dim=-1).float()
    _close(YOLOCoder().decode(priors, raw), case["out_mmdet_decode"])

    raw = case["in_raw"]
    images, _, height, width = raw.shape
    shapes = tuple(map(tuple, case["in_anchors_px"].tolist()))
    grid = AnchorGenerator((stride,), (shapes,))([(height, width)])
    params = raw.reshape(images, len(shapes), -1, height, width).permute(0, 3, 4, 1, 2)[..., :4].flatten(1, 3)
    order = (images, height, width, len(shapes), 4)
    for name, coder in (("v3", YOLOCoder()), ("v5", YOLOv5Coder())):
        if f"out_{name}_decoded" in case:
            decoded = xyxy_to_cxcywh(coder.decode(grid, params)).reshape(order)
            _close(decoded.permute(0, 3, 1, 2, 4).flatten(1, 3), case[f"out_{name}_decoded"][..., :4])

    points = PointGenerator((stride,), offset=0.0)([(height, width)])
    decoded = PointCoder().decode(points, case["in_yolox_raw"][..., :4])
    _close(xyxy_to_cxcywh(decoded), case["out_yolox_decoded"][..., :4])


@pytest.mark.parametrize("file", golden_cases("assigners/ssd_match"))
def test_deltas_with_variances_equal_ssd(file):
    case = load_case(file)
    first, second = case["param_variances"].tolist()
    coder = DeltaCoder(stds=(first, first, second, second), max_ratio=1e4)
    priors = _priors(cxcywh_to_xyxy(case["in_priors_cxcywh"]))
    torch.testing.assert_close(coder.decode(priors, case["in_loc_pred"]), case["out_decoded"], atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(CODERS),
    st.lists(st.tuples(*[st.floats(0.2, 0.8)] * 2, *[st.floats(0.3, 3.0)] * 2), min_size=6, max_size=6),
)
def test_decoding_inverts_encoding(coder, draws):
    """Boxes within reach: their centre in the prior's cell, their sides 0.3 to 3 priors."""
    priors = AnchorGenerator.square((16.0,), scale=2, offset=0.5)([(2, 3)])
    draw = torch.tensor(draws)
    center = priors.centers + (draw[:, :2] - 0.5) * 16
    boxes = cxcywh_to_xyxy(torch.cat([center, draw[:, 2:] * 32], dim=-1)).expand(2, 6, 4)
    torch.testing.assert_close(coder.decode(priors, coder.encode(priors, boxes)), boxes, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("coder", [*CODERS, IntegralCoder()], ids=lambda coder: type(coder).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_hostile_numbers_stay_finite(coder, dtype):
    """Boxes of no width or upside down and logits of ±10⁴ have finite codes, boxes and gradients, float32 at least."""
    wide = torch.promote_types(dtype, torch.float32)
    grid = AnchorGenerator.square((8.0,), scale=4, offset=0.5)([(2, 2)])
    priors = grid.map(lambda tensor: tensor.to(dtype, copy=True))
    priors.boxes[3, 2:] = priors.boxes[3, :2]
    boxes = torch.tensor([[5.0, 5, 5, 5], [0, 0, 1e4, 1e4], [-9, -9, -9, 300], [3, 9, 9, 3]], dtype=dtype)
    encoded = coder.encode(priors, boxes)
    assert encoded.dtype == wide
    assert torch.isfinite(encoded).all()
    width = 68 if isinstance(coder, IntegralCoder) else 4
    params = torch.tensor([-1e4, 1e4, 0.0, 60.0], dtype=dtype)[torch.arange(4 * width).reshape(4, width) * 7 % 4]
    params.requires_grad_()
    decoded = coder.decode(priors, params)
    assert decoded.dtype == wide
    assert torch.isfinite(decoded).all()
    assert torch.equal(decoded, coder.decode(priors.map(lambda tensor: tensor.to(wide)), params.to(wide)))
    decoded.sum().backward()
    assert torch.isfinite(params.grad).all()


def test_class_specific_deltas_decode_per_class():
    priors = _priors(torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 9.0, 20.0]]))
    params = torch.randn(3, 2, 5 * 4)
    decoded = DeltaCoder().decode(priors, params)
    assert decoded.shape == (3, 2, 5, 4)
    torch.testing.assert_close(decoded[:, :, 2], DeltaCoder().decode(priors, params[..., 8:12]))


def test_clamps_bound_the_decoded_size():
    priors = _priors(torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
    params = torch.tensor([[100.0, 0.0, 50.0, -50.0]])
    both = xyxy_to_cxcywh(DeltaCoder(max_shift=3).decode(priors, params))[0]
    assert both.tolist() == pytest.approx([8.0, 5.0, 625.0, 0.16], rel=1e-3)
    upper = xyxy_to_cxcywh(DeltaCoder(clamp="upper").decode(priors, params))[0]
    assert upper[3] < 1e-6


@pytest.mark.parametrize("coder", [*CODERS, IntegralCoder(), FineGrainedCoder()], ids=lambda c: type(c).__name__)
def test_coders_never_wait(coder):
    priors = AnchorGenerator.square((8.0,), scale=4, offset=0.5)([(2, 2)])
    check_never_waits(coder.encode, priors, torch.zeros(2, 4, 4))
    check_never_waits(coder.decode, priors, torch.zeros(2, 4, 4 * (getattr(coder, "reg_max", 0) + 1)))


@pytest.mark.parametrize("coder", [*CODERS, IntegralCoder(), FineGrainedCoder()], ids=lambda c: type(c).__name__)
def test_autocast_changes_nothing(coder):
    priors = AnchorGenerator.square((8.0,), scale=4, offset=0.5)([(2, 2)])
    params = torch.randn(2, 4, 4 * (getattr(coder, "reg_max", 0) + 1))
    plain = coder.decode(priors, params)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(coder.decode(priors, params), plain, rtol=0, atol=0)


@pytest.mark.parametrize("coder", [*CODERS, IntegralCoder(), FineGrainedCoder()], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_as_its_values(coder, dtype):
    """Far from the origin the middle of two half-precision sides is no half-precision number."""
    low = AnchorGenerator.square((8.0,), scale=5, offset=0.5)([(2, 200)]).map(lambda tensor: tensor.to(dtype))
    same = low.map(Tensor.float)
    params = torch.randn(400, 4 * (getattr(coder, "reg_max", 0) + 1)).to(dtype)
    assert torch.equal(coder.decode(low, params), coder.decode(same, params.float()))
    assert torch.equal(coder.encode(low, low.boxes.flip(0)), coder.encode(same, same.boxes.flip(0)))


@pytest.mark.parametrize("coder", [*CODERS, IntegralCoder(), FineGrainedCoder()], ids=lambda c: type(c).__name__)
def test_images_of_a_batch_are_coded_as_alone(coder):
    priors = AnchorGenerator.square((8.0,), scale=4, offset=0.5)([(2, 3)])
    params = torch.randn(3, 6, 4 * (getattr(coder, "reg_max", 0) + 1))
    boxes = coder.decode(priors, params)
    _close(boxes, torch.stack([coder.decode(priors, image) for image in params]))
    _close(coder.encode(priors, boxes), torch.stack([coder.encode(priors, image) for image in boxes]))
    own = Priors(*(tensor.expand(3, *tensor.shape) for tensor in (priors.boxes, priors.centers, priors.strides)))
    _close(coder.decode(own, params), boxes)
    _close(coder.encode(own, boxes), coder.encode(priors, boxes))


@pytest.mark.parametrize("coder", CODERS, ids=lambda coder: type(coder).__name__)
def test_coders_compile_without_breaks(coder):
    priors = AnchorGenerator.square((8.0,), scale=4, offset=0.5)([(2, 2)])
    params = torch.randn(2, 4, 4) * 0.3
    compiled = torch.compile(lambda p, x: coder.encode(p, coder.decode(p, x)), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(priors, params), coder.encode(priors, coder.decode(priors, params)))
