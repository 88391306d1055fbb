"""Assignment by grid cell against four YOLO ports."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from boxwright.assigners import RatioGridAssigner, YOLOAssigner
from boxwright.boxes import AnchorGenerator, YOLOCoder, aligned_iou, cxcywh_to_xyxy, xyxy_to_cxcywh
from boxwright.structures import Assignment, Predictions, Priors, Targets
from goldens import Case, golden_cases, load_case


def _grid(anchors: Sequence[Sequence[float]], height: int, width: int, stride: float = 1.0) -> Priors:
    return AnchorGenerator((stride,), (tuple(map(tuple, anchors)),))([(height, width)])


def _targets(images: Sequence[Tensor]) -> Targets:
    """Rows are (class, cx, cy, w, h) in the units of the priors."""
    return Targets.from_list([{"boxes": cxcywh_to_xyxy(rows[:, 1:]), "labels": rows[:, 0].long()} for rows in images])


def _maps(flat: Tensor, anchors: int, height: int, width: int) -> Tensor:
    """Reorder (B, H · W · A, …), the order of priors, into (B, A, H, W, …)."""
    return flat.unflatten(1, (height, width, anchors)).movedim(3, 1)


def _shape_iou(size: Sequence[float], anchor: Sequence[float], plus: int) -> float:
    areas = [(w + plus) * (h + plus) for w, h in (size, anchor)]
    shared = (min(size[0], anchor[0]) + plus) * (min(size[1], anchor[1]) + plus)
    return shared / (sum(areas) - shared)


def _own_slots(rows: Tensor, anchors: Sequence[Sequence[float]], plus: int) -> list[tuple[int, int, int, list[float]]]:
    """Anchor, row and column of each object, and the overlap of its shape with every anchor."""
    slots = []
    for _, x, y, w, h in rows.tolist():
        overlap = [_shape_iou((w, h), anchor, plus) for anchor in anchors]
        slots.append((overlap.index(max(overlap)), int(y), int(x), overlap))
    return slots


def _yolov2_scene(case: Case) -> tuple[Priors, Targets, Tensor, tuple[int, int, int]]:
    """Priors and targets in cells, raw outputs (B, L, 5 + C), and the shape of a map."""
    anchors = case["in_anchors"].tolist()
    images, _, height, width = case["in_output"].shape
    scale = torch.tensor([1.0, width, height, width, height])
    rows = [rows[(rows[:, 1] != 0).cumprod(dim=0).bool()] * scale for rows in case["in_target"]]  # stops at cx = 0
    raw = case["in_output"].reshape(images, len(anchors), -1, height, width).permute(0, 3, 4, 1, 2).flatten(1, 3)
    return _grid(anchors, height, width), _targets(rows), raw, (len(anchors), height, width)


@pytest.mark.parametrize("file", golden_cases("assigners/yolov2_targets"))
def test_targets_and_loss_equal_pytorch_yolo2(file):
    case = load_case(file)
    priors, targets, raw, shape = _yolov2_scene(case)
    coder = YOLOCoder()
    boxes = coder.decode(priors, raw[..., :4])
    expected = case["out_pred_boxes"].reshape(len(raw), *shape, 4)
    torch.testing.assert_close(_maps(xyxy_to_cxcywh(boxes), *shape), expected, atol=1e-4, rtol=1e-5)

    assignment = YOLOAssigner(case.param("thresh"))(priors, targets, Predictions(raw, raw, boxes=boxes))
    positive = assignment.positive
    assert torch.equal(_maps(positive, *shape), case["out_obj_mask"] > 0)
    assert torch.equal(_maps(assignment.gt_index == -1, *shape), case["out_noobj_mask"] > 0)
    mask = case["out_obj_mask"] > 0

    labels, matched = assignment.labels(targets), assignment.boxes(targets)
    assert torch.equal(
        _maps(labels, *shape)[case["out_obj_mask"] > 0].float(), case["out_tcls"][case["out_obj_mask"] > 0]
    )
    confidence = torch.where(positive, aligned_iou(boxes, matched), 0)
    torch.testing.assert_close(_maps(confidence, *shape), case["out_tconf"], atol=1e-5, rtol=1e-5)
    own = torch.where(positive.unsqueeze(-1), matched, priors.boxes)
    coordinates = coder.activate(coder.encode(priors, own))
    expected = case["out_tcoord"].movedim(0, -1)
    torch.testing.assert_close(_maps(coordinates, *shape)[mask], expected[mask], atol=1e-4, rtol=1e-5)

    assert targets.objects.sum() == case["out_nGT"]  # nRecall is for its log: predictions with an IoU above 0.5

    early = case.param("seen") < 12800  # then every cell learns to predict its anchor
    _, _, w, h = (xyxy_to_cxcywh(own) / torch.tensor([shape[2], shape[1]] * 2)).unbind(-1)
    weight = torch.where(positive, 2 - w * h, 0.01 if early else 0.0)
    torch.testing.assert_close(_maps(weight, *shape), case["out_coord_mask"], atol=1e-5, rtol=1e-5)
    difference = (coder.activate(raw[..., :4]) - coordinates) * weight.unsqueeze(-1)
    objectness = (raw[..., 4].sigmoid() - confidence) * (5.0 * positive + (assignment.gt_index == -1))
    classes = functional.cross_entropy(raw[..., 5:][positive], labels[positive], reduction="sum")
    loss = (difference.square().sum() + objectness.square().sum() + classes) / len(raw)
    assert loss.item() == pytest.approx(case["out_loss"].item(), rel=1e-4)


@pytest.mark.parametrize("file", golden_cases("assigners/yolov2_longcw_targets"))
def test_targets_equal_longcw_but_for_its_plus_one(file):
    """The port adds 1 to sides in cells when it chooses an anchor; the reference written here shows both forms."""
    case = load_case(file)
    anchors, (width, height) = case["in_anchors"].tolist(), case["param_out_wh"].tolist()
    stride = case["param_inp_wh"][0].item() / width
    boxes = case["in_gt_boxes"].float()
    rows = torch.cat([case["in_gt_classes"].float()[:, None], xyxy_to_cxcywh(boxes / stride)], dim=1)

    def slots(plus: int) -> list[int]:
        grown = rows + torch.tensor([0.0, 0.0, 0.0, plus, plus])
        return [(y * width + x) * len(anchors) + anchor for anchor, y, x, _ in _own_slots(grown, anchors, 0)]

    golden = case["out_box_mask"].flatten() > 0.5
    assert set(slots(plus=1)) == set(golden.nonzero()[:, 0].tolist())

    priors = _grid([(w * stride, h * stride) for w, h in anchors], height, width, stride)
    raw = case["in_bbox_pred"].float().flatten(0, 1)
    raw = torch.cat([raw[:, :2].logit(), raw[:, 2:].log()], dim=1)[None]
    predicted = YOLOCoder().decode(priors, raw)
    last_pixel = torch.tensor([0.0, 0.0, 1.0, 1.0])  # its +1 in pixels is a box that ends after its last pixel
    targets = Targets.from_list([{"boxes": boxes, "labels": case["in_gt_classes"]}])
    assignment = YOLOAssigner(case.param("iou_thresh"))(priors, targets, Predictions(raw, raw, boxes=predicted))
    assert set(slots(plus=0)) == set(assignment.positive[0].nonzero()[:, 0].tolist())

    last = {slot: gt for gt, slot in enumerate(slots(plus=0))}
    for slot, gt in last.items():
        assert assignment.gt_index[0, slot] == gt
    coordinates = YOLOCoder().activate(YOLOCoder().encode(priors, assignment.boxes(targets))[0])
    for slot, gt in {slot: gt for gt, slot in enumerate(slots(plus=1))}.items():
        if last.get(slot) == gt:
            expected = case["out_boxes"].flatten(0, 1)[slot].float()
            found = torch.cat([coordinates[slot, :2], coordinates[slot, 2:].exp()])
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
            assert case["out_classes"].flatten(0, 1)[slot, case["in_gt_classes"][gt]] == 1

    last, ious = {slot: gt for gt, slot in enumerate(slots(plus=1))}, torch.zeros(predicted.shape[1])
    shown = torch.zeros(predicted.shape[1], case.param("num_classes"))
    for slot, gt in last.items():
        ious[slot] = aligned_iou(boxes[gt] + last_pixel, predicted[0, slot] + last_pixel)
    for slot, label in zip(slots(plus=1), case["in_gt_classes"].tolist(), strict=True):
        shown[slot, label] = 1  # objects that share a prior leave all their classes
    torch.testing.assert_close(case["out_ious"].flatten().float(), ious, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(case["out_classes"].flatten(0, 1).float(), shown)
    torch.testing.assert_close(case["out_class_mask"].flatten(), golden.double() * case.param("class_scale"))
    box_mask = torch.where(golden, case.param("coord_scale"), 0.01)
    torch.testing.assert_close(case["out_box_mask"].flatten(), box_mask.double())
    confidence = case["in_iou_pred"].flatten()
    signed = torch.where(golden, case.param("object_scale") * (1 - confidence), 0)
    torch.testing.assert_close(case["out_iou_mask"].flatten()[golden], signed[golden])

    nothing = torch.zeros(1, predicted.shape[1])  # an image without objects overlaps nothing
    overlap = torch.cat([nothing, aligned_iou((boxes + last_pixel)[:, None], predicted + last_pixel)]).amax(dim=0)
    background = overlap <= case.param("iou_thresh")
    assert torch.equal(background | golden, case["out_iou_mask"].flatten() != 0)
    assert torch.equal(case["out_iou_mask"].flatten() < 0, background & ~golden)
    weight = -case.param("noobject_scale") * confidence
    torch.testing.assert_close(case["out_iou_mask"].flatten()[background & ~golden], weight[background & ~golden])
    plain = torch.cat([nothing, aligned_iou(boxes[:, None], predicted)]).amax(dim=0) <= case.param("iou_thresh")
    assert torch.equal(assignment.gt_index[0] == -1, plain & ~assignment.positive[0])


@pytest.mark.parametrize("file", golden_cases("assigners/yolov3_old_targets"))
def test_targets_equal_pytorch_yolov3_but_for_its_flaws(file):
    """The port adds 1 to sides in cells and lets a later object ignore an earlier positive; we do neither."""
    case = load_case(file)
    anchors = case["in_scaled_anchors"].tolist()
    images, _, side, _ = case["out_mask"].shape
    images = [rows[rows.sum(dim=1) != 0] * torch.tensor([1.0] + [side] * 4) for rows in case["in_target"]]

    def reference(plus: int) -> tuple[Tensor, Tensor]:
        """Index of the object at every prior, and the confidence mask, both (B, A, H, W)."""
        owner = torch.full(case["out_mask"].shape, -1)
        confidence = torch.ones(case["out_mask"].shape)
        for image, rows in enumerate(images):
            for gt, (best, y, x, overlap) in enumerate(_own_slots(rows, anchors, plus)):
                near = torch.tensor(overlap) > case.param("ignore_thres")
                confidence[image, near, y, x] = 0
                owner[image, best, y, x] = gt
                confidence[image, best, y, x] = 1
        return owner, confidence

    owner, confidence = reference(plus=1)
    assert torch.equal(owner >= 0, case["out_mask"] > 0)
    assert torch.equal(confidence, case["out_conf_mask"])
    assert torch.equal((owner < 0) & (confidence > 0), case["out_v2_noobj_mask"] > 0)
    assert torch.equal(owner >= 0, case["out_v2_obj_mask"] > 0)

    priors, targets = _grid(anchors, side, side), _targets(images)
    assert targets.objects.sum() == case["out_nGT"]  # nCorrect is for its log: predictions right in box and class
    raw = case["in_raw"].permute(0, 2, 3, 1, 4).flatten(1, 3)  # (B, L, 5 + C)
    predicted = _maps(YOLOCoder().decode(priors, raw[..., :4]), len(anchors), side, side)
    torch.testing.assert_close(xyxy_to_cxcywh(predicted), case["out_pred_boxes"], atol=1e-4, rtol=1e-5)
    assert torch.equal(case["out_tconf"], case["out_mask"])  # its confidence target is 1
    assignment = YOLOAssigner(case.param("ignore_thres"), ignore_by="shape")(priors, targets)
    found = _maps(assignment.gt_index, len(anchors), side, side)
    mended, confidence = reference(plus=0)
    expected = torch.where(mended >= 0, mended, torch.where(confidence > 0, -1, -2))
    assert torch.equal(found, expected)

    same = (mended == owner) & (owner >= 0)
    codes = YOLOCoder().activate(YOLOCoder().encode(priors, assignment.boxes(targets)))
    codes = _maps(codes, len(anchors), side, side)[same]
    for column, name in enumerate(("tx", "ty", "tw", "th")):
        torch.testing.assert_close(codes[:, column], case[f"out_{name}"][same], atol=1e-4, rtol=1e-4)
    labels = _maps(assignment.labels(targets), len(anchors), side, side)
    assert (case["out_tcls"][same].gather(1, labels[same][:, None]) == 1).all()


@pytest.mark.parametrize("file", golden_cases("assigners/yolo_ultra_targets"))
def test_positives_equal_ultralytics(file):
    case = load_case(file)
    sizes = [tuple(size) for size in case["in_feat_hw"].tolist()]
    strides = tuple(8.0 * sizes[0][0] / height for height, _ in sizes)
    shapes = tuple(
        tuple((w * stride, h * stride) for w, h in level)
        for level, stride in zip(case["in_anchors_grid"].tolist(), strides, strict=True)
    )
    priors = AnchorGenerator(strides, shapes)(sizes)
    scale = torch.tensor([1.0, *[sizes[0][1] * 8.0, sizes[0][0] * 8.0] * 2])
    rows = case["in_targets"]
    members = [(rows[:, 0] == image).nonzero()[:, 0] for image in range(case.param("batch"))]
    targets = _targets([rows[member, 1:] * scale for member in members])
    assignment = RatioGridAssigner(case.param("anchor_t"))(priors, targets)
    start = 0
    for number, level in enumerate(priors.levels):
        found = assignment.gt_index[:, start : start + level.size]
        boxes = assignment.boxes(targets)[:, start : start + level.size]
        labels = assignment.labels(targets)[:, start : start + level.size]
        start += level.size
        expected: dict[tuple[int, int], list[list[float]]] = {}
        for (image, anchor, y, x), box, label in zip(
            case[f"out_l{number}_indices_b_a_gj_gi"].tolist(),
            case[f"out_l{number}_tbox"].tolist(),
            case[f"out_l{number}_tcls"].tolist(),
            strict=True,
        ):
            slot = (image, (y * level.width + x) * level.per_cell + anchor)
            target = [(box[0] + x) * level.stride, (box[1] + y) * level.stride, box[2] * level.stride]
            expected.setdefault(slot, []).append([*target, box[3] * level.stride, label])
        for (_, anchor, y, x), size in zip(
            case[f"out_l{number}_indices_b_a_gj_gi"].tolist(), case[f"out_l{number}_anchors"], strict=True
        ):
            prior = priors.boxes[start - level.size + (y * level.width + x) * level.per_cell + anchor]
            torch.testing.assert_close((prior[2:] - prior[:2]) / level.stride, size, atol=1e-4, rtol=1e-5)
        assert {tuple(slot) for slot in (found >= 0).nonzero().tolist()} == set(expected)
        for (image, slot), candidates in expected.items():
            ours = [*xyxy_to_cxcywh(boxes[image, slot]).tolist(), labels[image, slot].item()]
            assert any(ours == pytest.approx(candidate, abs=1e-3) for candidate in candidates)


def _ratio_reference(priors: Priors, boxes: Tensor, most: float) -> list[int]:
    """Loop over everything; conflicts go to the smaller factor, then to the lower index."""
    owner: dict[int, tuple[float, int]] = {}
    start = 0
    for level in priors.levels:
        anchors = (
            priors.boxes[start : start + level.per_cell, 2:] - priors.boxes[start : start + level.per_cell, :2]
        ).tolist()
        for gt, (cx, cy, w, h) in enumerate(xyxy_to_cxcywh(boxes).tolist()):
            x, y = cx / level.stride, cy / level.stride
            cells = [(x, y)]
            for side, dx, dy in ((x, -0.5, 0), (y, 0, -0.5), (level.width - x, 0.5, 0), (level.height - y, 0, 0.5)):
                if side % 1 < 0.5 and side > 1:
                    cells.append((x + dx, y + dy))
            for number, (aw, ah) in enumerate(anchors):
                factor = max(w / aw, aw / max(w, 1e-9), h / ah, ah / max(h, 1e-9))
                for column, row in cells if factor < most else []:
                    column = min(max(math.trunc(column), 0), level.width - 1)
                    row = min(max(math.trunc(row), 0), level.height - 1)
                    slot = start + (row * level.width + column) * level.per_cell + number
                    owner[slot] = min(owner.get(slot, (math.inf, 0)), (factor, gt))
        start += level.size
    return [owner[slot][1] if slot in owner else -1 for slot in range(len(priors))]


SCENE = AnchorGenerator((8.0, 16.0), (((8.0, 16.0), (16.0, 8.0)), ((32.0, 32.0),)))([(4, 6), (2, 3)])
boxes_of_an_image = st.lists(
    st.tuples(*[st.integers(-8, 56)] * 2, *[st.sampled_from([0, 2, 5, 9, 16, 40, 90])] * 2), max_size=5
)


def _scene(images: list[list[tuple[int, int, int, int]]]) -> list[Tensor]:
    return [
        torch.tensor([[0, x, y, w, h] for x, y, w, h in rows], dtype=torch.float32).reshape(-1, 5) for rows in images
    ]


def _permuted(targets: Targets, extra: int) -> Targets:
    """Reverse the images and pad with `extra` entries that are not valid."""

    def change(tensor: Tensor) -> Tensor:
        return torch.cat([tensor.flip(0), tensor.new_zeros(len(tensor), extra, *tensor.shape[2:])], dim=1)

    return targets.map(change)


@settings(max_examples=40, deadline=None)
@given(st.lists(boxes_of_an_image, min_size=1, max_size=3))
def test_ratio_grid_equals_brute_force(images):
    scene = _scene(images)
    targets = _targets(scene)
    assignment = RatioGridAssigner()(SCENE, targets)
    for image, rows in enumerate(scene):
        assert assignment.gt_index[image].tolist() == _ratio_reference(SCENE, cxcywh_to_xyxy(rows[:, 1:]), 4.0)
    flipped = RatioGridAssigner()(SCENE, _permuted(targets, 2))
    assert torch.equal(flipped.gt_index.flip(0), assignment.gt_index)


@settings(max_examples=40, deadline=None)
@given(st.lists(boxes_of_an_image, min_size=1, max_size=3))
def test_yolo_finds_the_best_shape_over_all_levels(images):
    scene = _scene(images)
    targets = _targets(scene)
    boxes = SCENE.boxes.expand(len(scene), -1, -1)
    predictions = Predictions(boxes, boxes, boxes=boxes)
    assignment = YOLOAssigner(0.6)(SCENE, targets, predictions)
    for image, rows in enumerate(scene):
        owner = {}
        for gt, (_, x, y, w, h) in enumerate(rows.tolist()):
            overlap = [_shape_iou((w, h), anchor, 0) for anchor in ((8, 16), (16, 8), (32, 32))]
            best = overlap.index(max(overlap))
            stride, height, width = (16, 2, 3) if best == 2 else (8, 4, 6)
            column = min(max(math.floor(x / stride), 0), width - 1)
            row = min(max(math.floor(y / stride), 0), height - 1)
            owner[(48 + row * 3 + column) if best == 2 else (row * 6 + column) * 2 + best] = gt
        for slot in range(len(SCENE)):
            overlap = aligned_iou(cxcywh_to_xyxy(rows[:, 1:]), SCENE.boxes[slot])
            background = -2 if len(rows) and overlap.max() > 0.6 else -1
            assert assignment.gt_index[image, slot] == owner.get(slot, background)
    flipped = YOLOAssigner(0.6)(SCENE, _permuted(targets, 2), predictions)
    assert torch.equal(flipped.gt_index.flip(0), assignment.gt_index)


@pytest.mark.parametrize("assigner", [YOLOAssigner(ignore_by="shape"), RatioGridAssigner()])
def test_crowd_empty_images_and_one_graph(assigner):
    targets = Targets.from_list(
        [
            {
                "boxes": torch.tensor([[0.0, 0, 24, 32], [30, 10, 38, 26]]),
                "labels": torch.tensor([0, 1]),
                "iscrowd": torch.tensor([1, 0]),
            },
            {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        ]
    )
    assignment: Assignment = assigner(SCENE, targets)
    assert set(assignment.gt_index[0].tolist()) == {-2, -1, 1}
    assert (assignment.gt_index[1] == -1).all()
    assert torch.equal(assignment.score, assignment.positive.float())
    compiled = torch.compile(lambda p, t: assigner(p, t), fullgraph=True, backend="eager")
    assert torch.equal(compiled(SCENE, targets).gt_index, assignment.gt_index)


def test_priors_and_predictions_that_do_not_fit_are_refused():
    targets = _targets([torch.zeros(0, 5)])
    proposals = Priors(torch.zeros(1, 3, 4), torch.zeros(1, 3, 2), torch.ones(3))
    of_each = replace(SCENE, boxes=SCENE.boxes[None])
    for priors in (proposals, replace(SCENE, levels=()), of_each):
        with pytest.raises(ValueError, match="grids"):
            RatioGridAssigner()(priors, targets)
    with pytest.raises(ValueError, match="pass `predictions`"):
        YOLOAssigner()(SCENE, targets)
    with pytest.raises(ValueError, match="with `boxes`"):
        YOLOAssigner()(SCENE, targets, Predictions(torch.zeros(1, len(SCENE), 2), torch.zeros(1, len(SCENE), 4)))


@pytest.mark.parametrize("assigner", [RatioGridAssigner(), YOLOAssigner(ignore_by="shape")])
def test_a_level_without_cells_changes_nothing(assigner):
    """As images smaller than the coarsest stride have, or a network asked for a level in between."""
    shapes = (((8.0, 8.0), (16.0, 12.0)), ((50.0, 50.0),), ((30.0, 24.0),))
    targets = _targets([torch.tensor([[0, 20.0, 14, 9, 9], [1, 40, 20, 28, 26]])])
    with_hole = AnchorGenerator((8.0, 12.0, 16.0), shapes)([(4, 8), (0, 3), (2, 4)])
    without = AnchorGenerator((8.0, 16.0), shapes[::2])([(4, 8), (2, 4)])
    expected = assigner(without, targets).gt_index
    assert expected.amax() == 1
    assert torch.equal(assigner(with_hole, targets).gt_index, expected)
