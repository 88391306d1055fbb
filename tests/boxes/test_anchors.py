"""Anchor and point grids against the generators of eight code bases."""

import math

import pytest
import torch

from boxwright.boxes import AnchorGenerator, PointGenerator, xyxy_to_cxcywh
from boxwright.structures import Priors
from boxwright.testing import check_never_waits
from goldens import Case, golden_cases, load_case
from other_defaults import other_defaults

LAST_PIXEL = torch.tensor([0.0, 0.0, 1.0, 1.0])  # older code ends a box at its last pixel, not after it


def _sizes(case: Case) -> list[tuple[int, int]]:
    return [(height, width) for height, width in case["in_feat_hw"].tolist()]


def _check(priors: Priors, expected: torch.Tensor) -> None:
    torch.testing.assert_close(priors.boxes, expected.float(), atol=1e-4, rtol=1e-5)
    assert sum(level.size for level in priors.levels) == len(priors) == len(priors.strides)


def _count(priors: Priors, case: Case) -> None:
    assert [level.size for level in priors.levels] == case["out_num_per_level"].tolist()


def _of_scales(strides: list[int], scales: list[float], ratios: list[float], offset: float) -> AnchorGenerator:
    """Sides of any `scales`, which need not be octaves, in the order of `AnchorGenerator.retinanet`."""
    each = [AnchorGenerator.retinanet(strides, scale, 1, ratios).shapes for scale in scales]
    levels = zip(*each, strict=True)  # of each level, for each scale its ratios
    shapes = tuple(tuple(shape for ratio in zip(*level, strict=True) for shape in ratio) for level in levels)
    return AnchorGenerator(tuple(map(float, strides)), shapes, offset)


@pytest.mark.parametrize("file", golden_cases("assigners/anchors_mmdet"))
def test_octaves_equal_mmdetection(file):
    case = load_case(file)
    strides, ratios = case["param_strides"].tolist(), case["param_ratios"].tolist()
    if "param_octave_base_scale" in case:
        octave = (case.param("octave_base_scale"), case.param("scales_per_octave"))
        generator = AnchorGenerator.retinanet(strides, *octave, ratios)
    else:
        generator = _of_scales(strides, case["param_scales"].tolist(), ratios, offset=0.0)
    priors = generator(_sizes(case))
    _check(priors, case["out_anchors"])
    _count(priors, case)
    cell = case["out_base_anchors_l0"]  # those of cell (0, 0), centred on its corner
    torch.testing.assert_close(priors.boxes[: len(cell)], cell, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("file", golden_cases("assigners/anchors_paddle_grid"))
def test_squares_equal_paddle(file):
    case = load_case(file)
    scale, offset = case.param("grid_cell_size"), case.param("grid_cell_offset")
    priors = AnchorGenerator.square(case["param_strides"].tolist(), scale, offset)(_sizes(case))
    _check(priors, case["out_anchors"])
    _count(priors, case)
    torch.testing.assert_close(priors.centers, case["out_points"])
    torch.testing.assert_close(priors.strides, case["out_stride"][:, 0])


@pytest.mark.parametrize("file", golden_cases("assigners/anchors_atss_orig"))
def test_rounded_anchors_equal_original_atss(file):
    """Its window of `size` pixels lies half a pixel inside ours, because it ends at its last pixel."""
    case = load_case(file)
    levels = []
    for stride, size, grid in zip(
        case["param_strides"].tolist(), case["param_sizes"].tolist(), _sizes(case), strict=True
    ):
        levels.append(AnchorGenerator.rcnn((stride,), (size / stride,), case["param_ratios"].tolist())([grid]).boxes)
    assert [len(level) for level in levels] == case["out_num_per_level"].tolist()
    expected = case["out_anchors"] + torch.tensor([-0.5, -0.5, 0.5, 0.5])
    torch.testing.assert_close(torch.cat(levels), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("file", golden_cases("assigners/anchors_torchvision"))
def test_rounded_anchors_equal_torchvision(file):
    case = load_case(file)
    shapes = zip(_sizes(case), case["param_sizes"].tolist(), case["param_ratios"].tolist(), strict=True)
    levels = []
    for grid, sizes, ratios in shapes:
        y, x = (  # its strides may differ between y and x, so take each coordinate from its own stride
            AnchorGenerator.torchvision((int(image) // cells,), (sizes,), ratios)([grid]).boxes
            for image, cells in zip(case["in_image_hw"], grid, strict=True)
        )
        levels.append(torch.stack([x[:, 0], y[:, 1], x[:, 2], y[:, 3]], dim=1))
    torch.testing.assert_close(torch.cat(levels), case["out_anchors"])
    cell = case["out_cell_anchors_l0"]  # those of cell (0, 0), centred on its corner
    torch.testing.assert_close(levels[0][: len(cell)], cell)


@pytest.mark.parametrize("file", golden_cases("assigners/anchors_aploss"))
def test_octaves_in_the_middle_of_the_cell_equal_ap_loss(file):
    case = load_case(file)
    strides = [8 * 2**level for level in range(len(case["out_num_per_level"]))]
    sizes = [tuple(math.ceil(side / stride) for side in case["in_image_hw"].tolist()) for stride in strides]
    scales, ratios = case["param_scales"].tolist(), case["param_ratios"].tolist()
    generator = _of_scales(strides, [4 * scale for scale in scales], ratios, offset=0.5)
    priors = generator(sizes)
    _check(priors, case["out_anchors"] + LAST_PIXEL)
    _count(priors, case)
    if scales == pytest.approx([2 ** (i / len(scales)) for i in range(len(scales))]):
        octaves = AnchorGenerator.retinanet(strides, 4, len(scales), ratios, offset=0.5)(sizes)
        torch.testing.assert_close(octaves.boxes, priors.boxes)


@pytest.mark.parametrize("file", golden_cases("assigners/anchors_frcnn_legacy"))
def test_rounded_anchors_equal_faster_rcnn(file):
    case = load_case(file)
    generator = AnchorGenerator.rcnn(
        (case.param("base_size"),), case["param_scales"].tolist(), case["param_ratios"].tolist()
    )
    _check(generator([(1, 1)]), case["out_anchors"] + LAST_PIXEL)


@pytest.mark.parametrize("file", golden_cases("assigners/anchors_yolo"))
def test_given_shapes_equal_mmdetection_yolo(file):
    case = load_case(file)
    generator = AnchorGenerator(case["param_strides"].tolist(), case["param_base_sizes"].tolist())
    priors = generator(_sizes(case))
    _check(priors, case["out_anchors"])
    _count(priors, case)
    assert generator.per_cell == tuple(len(level) for level in case["param_base_sizes"])


def _ssd_sides(side: int, low: float, high: float, levels: int) -> list[int]:
    """Sides of the squares as mmdetection derives them from a range of ratios; the first level lies below it."""
    low, high = int(100 * low), int(100 * high)
    step = (high - low) // (levels - 2)
    first = {(300, 15): 7, (300, 20): 10, (512, 10): 4, (512, 15): 7}[side, low]
    percent = [first, *range(low, high + 1, step)]
    return [int(side * ratio / 100) for ratio in [*percent, percent[-1] + step]]


@pytest.mark.parametrize("file", golden_cases("assigners/anchors_ssd_mmdet"))
def test_ssd_boxes_equal_mmdetection(file):
    case = load_case(file)
    grids = _sizes(case)
    sides = _ssd_sides(case.param("input_size"), *case["param_basesize_ratio_range"].tolist(), len(grids))
    per_cell = [int(n) // (h * w) for n, (h, w) in zip(case["out_num_per_level"], grids, strict=True)]
    ratios = [(2,) if count == 4 else (2, 3) for count in per_cell]
    generator = AnchorGenerator.ssd(case["param_strides"].tolist(), sides[:-1], sides[1:], ratios)
    _check(generator(grids), case["out_anchors"])
    _count(generator(grids), case)


@pytest.mark.parametrize("file", golden_cases("assigners/ssd_priors"))
def test_ssd_boxes_equal_the_original(file):
    case = load_case(file)
    ratios = iter(case["param_aspect_ratios_flat"].tolist())
    side = case.param("min_dim")
    generator = AnchorGenerator.ssd(
        case["param_steps"].tolist(),
        case["param_min_sizes"].tolist(),
        case["param_max_sizes"].tolist(),
        [[next(ratios) for _ in range(count)] for count in case["param_aspect_ratios_count"].tolist()],
        clip=(side, side) if case.param("clip") else None,
    )
    priors = generator([(cells, cells) for cells in case["param_feature_maps"].tolist()])
    torch.testing.assert_close(xyxy_to_cxcywh(priors.boxes) / side, case["out_priors_cxcywh"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("file", golden_cases("assigners/points"))
def test_points_equal_mmdetection_and_ultralytics(file):
    case = load_case(file)
    generator = PointGenerator(tuple(case["param_strides"].tolist()), case.param("offset"))
    priors = generator(_sizes(case))
    assert generator.per_cell == (1,) * len(priors.levels)
    expected = case["out_mmdet_points_with_stride"]
    torch.testing.assert_close(priors.centers, expected[:, :2])
    torch.testing.assert_close(priors.strides, expected[:, 2])
    in_cells = priors.centers / priors.strides[:, None]
    torch.testing.assert_close(in_cells, case["out_ultra_anchor_points_gridunits"])
    torch.testing.assert_close(priors.strides, case["out_ultra_stride"][:, 0])
    assert torch.equal(priors.boxes[:, 2:] - priors.boxes[:, :2], priors.strides[:, None].expand(-1, 2))


def test_levels_describe_the_centres():
    generator = AnchorGenerator.retinanet((8.0, 16.0), offset=0.25)
    priors = generator([(3, 4), (2, 2)])
    start = 0
    for level in priors.levels:
        for index in range(level.size):
            cell = index // level.per_cell
            y, x = divmod(cell, level.width)
            expected = torch.tensor([x + level.offset, y + level.offset]) * level.stride
            torch.testing.assert_close(priors.centers[start + index], expected)
        start += level.size


def test_tables_made_in_inference_serve_training():
    generator = PointGenerator((7.0,))
    with torch.inference_mode():
        generator([(3, 5)])
    weight = torch.ones((), requires_grad=True)
    (generator([(3, 5)]).centers * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("clip", [None, (24, 41)])
def test_tables_do_not_depend_on_torch_s_defaults(clip):
    generator = AnchorGenerator((8.0, 16.0), (((4.0, 4.0),), ((9.0, 7.0), (7.0, 9.0))), clip=clip)
    with other_defaults():
        priors = generator([(3, 5), (2, 3)])
    assert {tensor.dtype for tensor in (priors.boxes, priors.centers, priors.strides)} == {torch.float32}
    assert priors.boxes.isfinite().all()


@pytest.mark.parametrize("clip", [None, (24, 40)])
def test_tables_go_to_the_device_without_a_wait(clip):
    generator = AnchorGenerator((8.0, 16.0), (((4.0, 4.0),), ((9.0, 7.0), (7.0, 9.0))), clip=clip)
    check_never_waits(lambda: generator([(3, 5), (2, 3)], "cuda"))


def test_wrong_level_counts_are_named():
    with pytest.raises(ValueError, match="2 feature sizes"):
        PointGenerator((8.0, 16.0))([(3, 4)])
    with pytest.raises(ValueError, match="2 strides, 1 shapes"):
        AnchorGenerator((8.0, 16.0), (((4.0, 4.0),),))
    with pytest.raises(ValueError, match=r"the network has 2 levels, but .* name \[2, 2, 2, 1\]"):
        AnchorGenerator.ssd((8, 16), (10, 20), (20, 30), ((2,), (2,)), steps=(9,))


def test_ssd_spreads_its_centres_by_steps_where_a_level_lost_its_border():
    generator = AnchorGenerator.ssd((8, 16), (10, 20), (20, 30), ((2,), (2,)), steps=(10, 30))
    priors = generator([(2, 2), (1, 1)])
    assert priors.centers[[0, 4, 8, 12, 16]].tolist() == [[5, 5], [15, 5], [5, 15], [15, 15], [15, 15]]
    assert priors.strides[[0, 16]].tolist() == [10, 30]
