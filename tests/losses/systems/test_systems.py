"""What all grid losses have in common: padding, emptiness, extreme outputs, compiling, and what darknet gets wrong."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from boxwright.losses.systems import (
    RegionLoss,
    cells,
    darknet_yolo_loss,
    longcw_loss,
    region_loss,
    yolov3_layer_loss,
    yolov3_loss,
)

ANCHORS = torch.tensor([[1.0, 1.5], [3.0, 2.0]], dtype=torch.float64)  # the dtype of losses is that of outputs
CLASSES = 3
Terms = dict[str, Tensor]
GridLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Terms]


def region(*inputs: Tensor) -> Terms:
    return region_loss(*inputs, anchors=ANCHORS, seen=20000)


def region_port(*inputs: Tensor) -> Terms:
    return region_loss(*inputs, anchors=ANCHORS, seen=0, form="pytorch-yolo2")


def region_andyyun(*inputs: Tensor) -> Terms:
    return region_loss(*inputs, anchors=ANCHORS, seen=0, form="andy-yun")


def longcw(*inputs: Tensor) -> Terms:
    return longcw_loss(*inputs, anchors=ANCHORS, net_size=(160, 192))


def yolo(*inputs: Tensor) -> Terms:
    return darknet_yolo_loss(*inputs, anchors=ANCHORS * 32, mask=(0, 1), net_size=(160, 192), truth_thresh=0.7)


def yolov3_2018(*inputs: Tensor) -> Terms:
    return yolov3_layer_loss(*inputs, anchors=ANCHORS)


def yolov3_today(output: Tensor, *objects: Tensor) -> Terms:
    return yolov3_loss([output, output], *objects, anchors=[ANCHORS, ANCHORS])


LOSSES = [region, region_port, region_andyyun, longcw, yolo, yolov3_2018, yolov3_today]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def problem(objects: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A (2, 2 · 8, 5, 6) output and objects; the last one of each image is padding."""
    boxes = torch.rand(2, objects, 4) * 0.6 + 0.2
    valid = (torch.arange(objects) < objects - 1).expand(2, -1)
    return torch.randn(2, 16, 5, 6), boxes, torch.randint(CLASSES, (2, objects)), valid


@every_loss
def test_padding_does_not_matter(loss: GridLoss) -> None:
    output, boxes, labels, valid = problem()
    expected = loss(output, boxes[:, :-1], labels[:, :-1], valid[:, :-1])
    torch.testing.assert_close(loss(output, boxes, labels, valid), expected)
    for value, label in ((0.0, 0), (0.0, -1), (torch.nan, 99)):
        boxes[~valid], labels[~valid] = value, label
        torch.testing.assert_close(loss(output, boxes, labels, valid), expected)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_outputs_and_boxes_stay_finite(loss: GridLoss, dtype: torch.dtype) -> None:
    output, boxes, labels, valid = problem()
    pool = torch.tensor([-1e4, -150.0, -1.0, 0.0, 1.0, 150.0, 1e4])
    output = pool[torch.randint(len(pool), output.shape)].to(dtype).requires_grad_()
    boxes[:, 0] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    boxes[:, 1] = torch.tensor([0.5, 0.5, 1.0, 1e-8])
    boxes[:, 2] = torch.tensor([-0.5, 1.5, 0.2, 0.2])
    total = sum(loss(output, boxes, labels, valid).values())
    assert total.isfinite()
    assert total.dtype == torch.float32
    # the gradient before it is rounded to the input's dtype, whose range it may leave
    wide = output.detach().float().requires_grad_()
    sum(loss(wide, boxes, labels, valid).values()).backward()
    assert wide.grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("objects", [0, 1])
def test_batches_without_objects_train_the_background_only(loss: GridLoss, objects: int) -> None:
    output = torch.randn(2, 16, 5, 6, requires_grad=True)
    empty = torch.zeros(2, objects, 4), torch.zeros(2, objects).long(), torch.zeros(2, objects).bool()
    terms = loss(output, *empty)
    assert terms["class"].item() == 0
    assert terms["objectness"].item() > 0
    sum(terms.values()).backward()
    assert output.grad.isfinite().all()


@every_loss
def test_no_image_costs_nothing(loss: GridLoss) -> None:
    inputs = [part[:0] for part in problem()]
    output = inputs[0].requires_grad_()
    terms = loss(*inputs)
    assert {name: term.item() for name, term in terms.items()} == {"box": 0, "objectness": 0, "class": 0}
    sum(terms.values()).backward()
    assert output.grad.shape == (0, 16, 5, 6)


@every_loss
def test_the_output_decides_the_dtype(loss: GridLoss) -> None:
    output, boxes, *objects = problem()
    for name, term in loss(output, boxes.double(), *objects).items():
        assert term.dtype == torch.float32, name
    torch.testing.assert_close(loss(output, boxes.double(), *objects), loss(output, boxes, *objects))


@every_loss
@pytest.mark.parametrize("shape", [(2, 15, 5, 6), (2, 8, 5, 6), (16, 10, 6)], ids=str)
def test_an_output_that_does_not_fit_the_anchors_is_named(loss: GridLoss, shape: tuple[int, ...]) -> None:
    _, *objects = problem()
    with pytest.raises(ValueError, match=rf"A = 2 anchors, got \({', '.join(map(str, shape))}\)"):
        loss(torch.zeros(shape), *objects)


@every_loss
def test_classes_may_be_left_out(loss: GridLoss) -> None:
    nobody = torch.zeros(2, 0, 4), torch.zeros(2, 0).long(), torch.zeros(2, 0).bool()
    terms = loss(torch.randn(2, 10, 5, 6), *nobody)
    assert terms["class"] == 0
    assert terms["objectness"] > 0


@every_loss
def test_blocks_of_predictions_change_nothing(loss: GridLoss, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = problem()
    expected = loss(*inputs)
    monkeypatch.setattr(cells, "BLOCK", 7)
    torch.testing.assert_close(loss(*inputs), expected)


def test_thresholds_are_what_an_overlap_has_to_exceed() -> None:
    """Without an object every overlap is 0, and a second anchor of the object's shape is as similar as can be."""
    nobody = torch.randn(2, 16, 5, 6), torch.zeros(2, 1, 4), torch.zeros(2, 1).long(), torch.zeros(2, 1).bool()
    sizes = {"anchors": ANCHORS * 32, "mask": (0, 1), "net_size": (160, 192)}
    none = darknet_yolo_loss(*nobody, **sizes)
    torch.testing.assert_close(darknet_yolo_loss(*nobody, **sizes, ignore_thresh=0.0, truth_thresh=0.0), none)
    expected = region_loss(*nobody, anchors=ANCHORS, seen=20000)
    torch.testing.assert_close(region_loss(*nobody, anchors=ANCHORS, seen=20000, thresh=0.0), expected)

    box = torch.tensor([[[0.5, 0.5, 0.25, 0.5]]])
    one = torch.zeros(1, 16, 4, 4), box, torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
    twins = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    free, ignored = (yolov3_layer_loss(*one, anchors=twins, ignore_thresh=thresh) for thresh in (1.0, 0.9))
    torch.testing.assert_close(free["objectness"], ignored["objectness"])  # every logit is 0: means of as much
    one[0][0, 12, 2, 2] = 3.0  # the twin's objectness
    free, ignored = (yolov3_layer_loss(*one, anchors=twins, ignore_thresh=thresh) for thresh in (1.0, 0.9))
    assert free["objectness"] > ignored["objectness"]
    similar = torch.tensor([[1.0, 1.875], [1.0, 2.0]])  # the object's own anchor is the second now
    expected = yolov3_layer_loss(*one, anchors=similar, ignore_thresh=0.9)["objectness"]
    one[0][0, 4, 2, 2] = 3.0  # the first one's objectness
    torch.testing.assert_close(yolov3_layer_loss(*one, anchors=similar, ignore_thresh=0.9)["objectness"], expected)


@pytest.mark.parametrize("last", [True, False], ids=["one cell", "two cells"])
def test_a_prediction_near_one_object_trains_the_object_that_owns_its_slot(last: bool) -> None:
    """The later object of one cell owns a slot that outputs the other, or the first one what outputs its neighbour."""
    output = torch.zeros(1, 16, 5, 6)
    near, owner = [2.5 / 6, 2.5 / 5, 1 / 6, 1.5 / 5], [2.5 / 6, 2.5 / 5, 1.2 / 6, 1.3 / 5]
    if not last:
        near[0] = 3.01 / 6
        output[0, 0, 2, 2] = 20.0  # as far to the right as the cell goes
    boxes = torch.tensor([[near, owner] if last else [owner, near]])
    call = output, boxes, torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool)
    options = {"anchors": ANCHORS * 32, "mask": (0, 1), "net_size": (160, 192)}
    far, near = (darknet_yolo_loss(*call, **options, truth_thresh=thresh) for thresh in (1.0, 0.7))
    assert far["box"] > 0
    torch.testing.assert_close(near["box"], far["box"])


@pytest.mark.slow
@every_loss
def test_is_one_graph(loss: GridLoss) -> None:
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    inputs = problem()
    torch.testing.assert_close(compiled(*inputs), loss(*inputs), rtol=1e-4, atol=1e-4)


def test_darknet_keeps_all_classes_of_a_slot() -> None:
    """Flaw 8: darknet forgets the first class when the error of class 0 happens to be exactly 0."""
    output = torch.zeros(1, 16, 5, 6)
    output[:, 5] = output[:, 13] = -1e4
    output.requires_grad_()
    boxes = torch.tensor([[[0.5, 0.5, 1 / 6, 0.3], [0.5, 0.5, 1 / 6, 0.3]]])
    terms = darknet_yolo_loss(
        output,
        boxes,
        torch.tensor([[1, 2]]),
        torch.ones(1, 2, dtype=torch.bool),
        anchors=ANCHORS * 32,
        mask=(0, 1),
        net_size=(160, 192),
    )
    terms["class"].backward()
    assert output.grad[0, 5:8, 2, 3].tolist() == [0.0, -0.5, -0.5]


def test_darknets_gradient_is_that_of_cross_entropy() -> None:
    output, boxes, labels, valid = problem()
    output.requires_grad_()
    region(output, boxes, labels, valid)["objectness"].backward()
    score = output.detach().view(2, 2, 8, 5, 6)[:, :, 4].sigmoid()
    gradient = output.grad.view(2, 2, 8, 5, 6)[:, :, 4]
    background = gradient == score
    assert background.sum() >= score.numel() - 2 * boxes.shape[1] * 3
    assert output.grad.view(2, 2, 8, 5, 6)[:, :, :4].abs().max() == 0


def test_images_seen_are_counted_saved_and_end_the_warm_up() -> None:
    module = RegionLoss(((1.0, 1.5), (3.0, 2.0)), warmup=3)
    inputs = problem()
    first = module(*inputs)
    second = module(*inputs)
    third = module(*inputs)
    assert module.seen.item() == 6
    assert module.seen.dtype == torch.int64  # a float32 stops at 16 million images
    torch.testing.assert_close(first, second)
    assert third["box"] < first["box"]
    module.eval()
    module(*inputs)
    assert set(module.state_dict()) == {"seen"}  # anchors are an option of this run
    other = RegionLoss(((1.0, 1.5), (3.0, 2.0)), warmup=3)
    other.load_state_dict(module.state_dict())
    assert other.seen.item() == 6
    torch.testing.assert_close(other(*inputs), third)
