import pytest
import torch

from boxwright.criteria import RegionCriterion, YOLOCriterion
from boxwright.models import Darknet, GridDetector, Postprocess
from boxwright.models.darknet import parse_cfg
from boxwright.structures import Targets

CFG = """[net]
height=32
width=64
[convolutional]
filters=14
size=32
stride=32
activation=linear
[region]
anchors=1,1, 0.5,2
num=2
classes=2
softmax=1
"""
MASKS, STRIDES, ANCHORS = [(0, 1)], [32.0], [(32.0, 32.0), (16.0, 64.0)]


def detector(cfg=CFG, **options):
    torch.manual_seed(0)
    criterion = RegionCriterion(ANCHORS, MASKS, STRIDES)
    return GridDetector(
        Darknet(parse_cfg(cfg)), criterion, Postprocess(score_threshold=0.0, iou_threshold=1.0), size=64,
        class_names=["a", "b"], **options,
    )  # fmt: skip


@pytest.mark.parametrize("softmax", [True, False])
def test_a_detection_is_what_darknet_would_read_from_the_output(softmax):
    """The image is used as 0..1; a score is σ(objectness) · softmax(classes), a box from the cell and the anchor."""
    found = detector(CFG if softmax else CFG.replace("softmax=1", "softmax=0")).eval()
    convolution = found.backbone.convolutions[0].conv
    image = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
    with torch.no_grad():
        convolution.weight.mul_(0.1)
        convolution.bias.normal_()
        raw = convolution(image / 255)[0].double().view(2, 7, 1, 2)  # anchor, entry, row, column
        answer = found(image)[0]
    expected = []
    for anchor, (width, height) in enumerate(ANCHORS):
        for column in range(2):
            x, y, w, h, objectness, *classes = raw[anchor, :, 0, column]
            shares = torch.stack(classes).softmax(0) if softmax else torch.stack(classes).sigmoid()
            score = objectness.sigmoid() * shares
            center = torch.stack([(column + x.sigmoid()) * 32, y.sigmoid() * 32])
            half = torch.stack([w.exp() * width, h.exp() * height]) / 2
            corners = torch.cat([center - half, center + half])
            box = corners.clamp(min=0).minimum(torch.tensor([64.0, 32, 64, 32], dtype=torch.float64))
            expected += [(score[label].item(), label, box.tolist()) for label in range(2)]
    expected.sort(reverse=True)
    assert len(answer["scores"]) == 8
    for (score, label, box), *ours in zip(expected, *answer.values(), strict=True):
        torch.testing.assert_close([ours[1].item(), ours[2].item()], [score, label], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours[0].tolist(), box, rtol=1e-4, atol=1e-3)


TWO_SCALES = """[net]
height=64
width=64
[convolutional]
filters=4
size=16
stride=16
activation=leaky
[convolutional]
filters=7
size=2
stride=2
activation=linear
[yolo]
mask=1
anchors=8,8, 32,32
num=2
classes=2
[route]
layers=0
[convolutional]
filters=7
activation=linear
[yolo]
mask=0
anchors=8,8, 32,32
num=2
classes=2
"""


def test_the_finest_cells_come_first_and_training_sees_the_outputs_as_they_are():
    torch.manual_seed(0)
    criterion = YOLOCriterion([(8.0, 8.0), (32.0, 32.0)], [(0,), (1,)], [16.0, 32.0])
    network = Darknet(parse_cfg(TWO_SCALES))
    found = GridDetector(network, criterion, Postprocess(), size=64, class_names=["a", "b"])
    images = torch.rand(2, 3, 64, 64)
    coarse, fine = (output.flatten(2).mT for output in network(images))  # (B, H W, 7)
    cells = torch.cat([fine, coarse], dim=1)
    predictions, priors = found.train().predict(images)
    assert priors.strides.tolist() == [16.0] * 16 + [32.0] * 4
    for values, expected in (
        (predictions.params, cells[..., :4]), (predictions.extras["quality"], cells[..., 4:5]),
        (predictions.logits, cells[..., 5:]),
    ):  # fmt: skip
        torch.testing.assert_close(values, expected)


def test_a_softmax_is_not_taken_in_training_where_the_loss_takes_it():
    found = detector().train()
    images = torch.rand(1, 3, 32, 64)
    (raw,) = found.backbone(images)
    logits = raw.view(2, 7, 1, 2)[:, 5:].permute(2, 3, 0, 1).reshape(1, 4, 2)  # cell by cell, then by anchor
    torch.testing.assert_close(found.predict(images)[0].logits, logits)


def test_training_sizes_change_every_ten_batches_and_depend_on_the_epoch_alone():
    network = detector(multi_scale=(64, 320)).train()
    targets = Targets.from_list([{"boxes": torch.tensor([[8.0, 4, 40, 20]]), "labels": torch.tensor([1])}])
    halves = Targets.from_list([{"boxes": torch.tensor([[4.0, 2, 20, 10]]), "labels": torch.tensor([1])}])
    sizes, boxes = [], []
    network.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[-2:])))
    network.criterion.register_forward_pre_hook(lambda _, inputs: boxes.append(inputs[2].boxes[0, 0]))
    image = torch.rand(1, 3, 32, 64)
    network(image, targets)  # as in a loop that knows no epochs
    sizes.clear(), boxes.clear()
    for epoch in (3, 4, 3):
        network.set_epoch(epoch)
        for batch in range(30):
            # a list of images and a batch are scaled alike
            losses = network([image[0, :, ::2, ::2]], halves) if batch % 2 else network(image, targets)
            assert all(loss.isfinite() for loss in losses.values())
    assert sizes[:30] == sizes[60:] != sizes[30:60]
    assert all(len({width for _, width in sizes[start : start + 10]}) == 1 for start in range(0, 90, 10))
    assert len({*sizes[:90]}) > 2
    assert all(height % 32 == width % 32 == 0 and 64 <= width <= 320 for height, width in sizes)
    for (height, width), box in zip(sizes, boxes, strict=True):
        scale = torch.tensor([width / 64, height / (64 if height == width else 32)]).repeat(2)
        torch.testing.assert_close(box, torch.tensor([8.0, 4, 40, 20]) * scale)
    network.eval()
    with torch.no_grad():
        network(image)
    assert sizes[-1] == (32, 64)


@pytest.mark.parametrize(
    ("cfg", "names", "words"),
    [
        (CFG.partition("[region]")[0], ["a"], r"no \[region\] or \[yolo\] layer; it classifies whole images"),
        (CFG, ["x", "y", "z"], r"line 9, \[region\] detects 2 classes, but there are 3: x, y, z"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(cfg, names, words):
    criterion = RegionCriterion(ANCHORS, MASKS, STRIDES)
    with pytest.raises(ValueError, match=words):
        GridDetector(Darknet(parse_cfg(cfg)), criterion, Postprocess(), size=32, class_names=names)
