"""The assigners on a GPU: as on the CPU, without a wait, captured in a graph, compiled, in bounded memory."""

from dataclasses import replace

import pytest
import torch

from assigner_forms import ASSIGNERS, ORDERED, WAITING, answers
from assignment_scenes import make_predictions, make_priors, make_targets
from boxwright.assigners import HardExampleSampler, HardNegativeSampler, MaxIoUAssigner, RandomSampler
from boxwright.assigners.grid import _axes
from boxwright.boxes import (
    AnchorGenerator,
    DeltaCoder,
    DistanceCoder,
    IntegralCoder,
    PointCoder,
    PointGenerator,
    YOLOCoder,
    YOLOv5Coder,
    aligned_iou,
    box_iou,
    multiclass_nms,
    soft_nms,
)
from boxwright.structures import Assignment, Predictions, Targets
from boxwright.testing import check_assigner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

RANDOM = {"rpn", "proposal"}
BATCHED = [name for name in ASSIGNERS if name not in WAITING]
WITHOUT_CHANCE = [name for name in BATCHED if name not in RANDOM]
# only sums, products and quotients, which CPU and GPU round alike; the others take exponentials or arc tangents
EXACT = {name for name in WITHOUT_CHANCE if name.startswith(("max_iou", "atss", "fcos", "ssd", "ratio", "yolo"))}


def crowded(images: int, objects: int, *, classes: int = 80, device: str = "cuda", crowd: bool = False):
    """Return 8,400 priors, `images` images with `objects` objects each, and a half-trained head's predictions."""
    draw = torch.Generator(device).manual_seed(0)
    priors = AnchorGenerator.square((8, 16, 32))([(80, 80), (40, 40), (20, 20)], device)
    low = torch.rand(images, objects, 2, device=device, generator=draw) * 560
    side = torch.exp(torch.randn(images, objects, 2, device=device, generator=draw) * 0.9 + 4)
    boxes = torch.cat([low, (low + side).clamp(max=640)], -1)
    labels = torch.randint(0, classes, (images, objects), device=device, generator=draw)
    valid = torch.ones(images, objects, dtype=torch.bool, device=device)
    crowds = (torch.rand(images, objects, device=device, generator=draw) < 0.1) & crowd
    targets = Targets(boxes, labels, valid, crowds, has_crowd=crowd)
    shape = (images, len(priors))
    noise = torch.randn(*shape, 4, device=device, generator=draw) * priors.strides[:, None]
    logits = torch.randn(*shape, classes, device=device, generator=draw).sub_(3)
    objectness = torch.randn(*shape, 1, device=device, generator=draw)
    return priors, targets, Predictions(logits, noise, {"objectness": objectness}, priors.boxes + noise)


def tensors(scene) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for part in scene:
        part.map(lambda tensor: found.append(tensor) or tensor)
    return found


@pytest.mark.parametrize("name", ASSIGNERS)
def test_checks_hold_on_a_gpu(name):
    """Random and hostile scenes: blocks, padding, order, precision, no wait, and the CPU's answers."""
    order, waits = name not in ORDERED, name in WAITING
    check_assigner(ASSIGNERS[name], scenes=4, order=order, waits=waits, compile=False, device="cuda")


@pytest.mark.parametrize("name", WITHOUT_CHANCE)
def test_equals_the_cpu_at_full_size(name):
    scene = crowded(2, 60, device="cpu", crowd=True)
    expected = answers(ASSIGNERS[name](*scene))
    found = answers(ASSIGNERS[name](*(part.to("cuda") for part in scene)))
    for here, there in zip(expected, found, strict=True):
        same = here.gt_index == there.gt_index.cpu()
        # where a last bit of an exponential decides between two priors, one of them is lost and one won
        assert (~same).sum() <= (0 if name in EXACT else 4), f"{int((~same).sum())} of {same.numel()} differ"
        torch.testing.assert_close(here.score[same], there.score.cpu()[same], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("crowd", [False, True])
@pytest.mark.parametrize("name", BATCHED)
def test_never_waits(name, crowd):
    """Also not at the first call for a size, when tables are made."""
    scene = crowded(16, 60, crowd=crowd)
    _axes.cache_clear()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ASSIGNERS[name](*scene)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", BATCHED)
def test_seventy_five_thousand_objects_in_two_gigabytes(name):
    """Of all that is on the device: 340 MiB of logits, the other inputs, and what the call needs."""
    torch.cuda.empty_cache()
    for images, objects in ((128, 586), (1, 5000)):
        scene = crowded(images, objects)
        torch.cuda.reset_peak_memory_stats()
        result = ASSIGNERS[name](*scene)
        peak = torch.cuda.max_memory_allocated() / 2**30
        assert peak < 2.0, f"{peak:.2f} GiB"
        assert any(answer.positive.any() for answer in answers(result))
        del scene, result


def assignment_and_loss(device: str) -> tuple[Assignment, torch.Tensor]:
    """Return an assignment of the CPU, and losses of which many tie."""
    priors = make_priors()
    assignment = MaxIoUAssigner()(priors, make_targets(3, 4, 6, hostile=False, crowd=True))
    loss = torch.rand(assignment.score.shape, generator=torch.Generator().manual_seed(0)).mul(8).round()
    return assignment.to(device), loss.to(device)


@pytest.mark.parametrize("sampler", [HardNegativeSampler(), HardNegativeSampler(minimum=5), HardExampleSampler(20)])
def test_samplers_choose_as_on_the_cpu(sampler):
    here, there = sampler(*assignment_and_loss("cpu")), assignment_and_loss("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = sampler(*there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(here.gt_index, found.gt_index.cpu())


def test_hard_examples_without_duplicates_as_on_the_cpu():
    boxes, sampler = make_priors().boxes, HardExampleSampler(20, iou_threshold=0.5)
    here = sampler(*assignment_and_loss("cpu"), boxes)
    there = sampler(*assignment_and_loss("cuda"), boxes.cuda())
    assert torch.equal(here.gt_index, there.gt_index.cpu())


def test_random_sampler_takes_as_many_as_on_the_cpu():
    (here, _), (there, _) = (assignment_and_loss(device) for device in ("cpu", "cuda"))
    sampler = RandomSampler(12, 0.25)
    for kind in ("positive", "ignored"):
        counts = [getattr(sampler(assignment), kind).sum(1).tolist() for assignment in (here, there)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize(
    "generator",
    [
        AnchorGenerator.retinanet((8, 16, 32)),
        AnchorGenerator.rcnn(),
        AnchorGenerator.ssd((8, 16), (30, 60), (60, 111), ((2,), (2, 3))),
        PointGenerator((8, 16)),
    ],
    ids=["retinanet", "rcnn", "ssd", "points"],
)
def test_priors_are_those_of_the_cpu(generator):
    cells = [(8, 8), (4, 4), (2, 2)][: len(generator.strides)]
    here, there = tensors([generator(cells)]), tensors([generator(cells, "cuda")])
    assert all(b.is_cuda and torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize(
    "coder",
    [DeltaCoder(), DistanceCoder(), IntegralCoder(), PointCoder(), YOLOCoder(), YOLOv5Coder()],
    ids=lambda coder: type(coder).__name__,
)
def test_coders_decode_and_encode_as_on_the_cpu(coder):
    priors = make_priors()
    width = 4 * (coder.reg_max + 1) if isinstance(coder, IntegralCoder) else 4
    params = torch.randn(2, len(priors), width)
    decoded, there = coder.decode(priors, params), coder.decode(priors.to("cuda"), params.cuda())
    torch.testing.assert_close(decoded, there.cpu(), atol=1e-4, rtol=1e-5)
    encoded, there = coder.encode(priors, decoded), coder.encode(priors.to("cuda"), decoded.cuda())
    back = DistanceCoder() if isinstance(coder, IntegralCoder) else coder  # a distribution is coded by its mean
    found = back.decode(priors, there.cpu())  # compared as boxes: near a border of its cell a centre's logit is steep
    torch.testing.assert_close(back.decode(priors, encoded), found, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("mode", ["iou", "iof", "giou", "diou"])
def test_overlaps_to_the_last_bit(mode):
    targets = make_targets(0, 2, 7, hostile=True, crowd=False).boxes
    priors = make_priors(3).boxes
    here, there = box_iou(targets, priors, mode), box_iou(targets.cuda(), priors.cuda(), mode)
    assert torch.equal(here, there.cpu())
    pairs = targets.unsqueeze(2), priors
    assert torch.equal(aligned_iou(*pairs, mode), aligned_iou(*(part.cuda() for part in pairs), mode).cpu())


@pytest.mark.parametrize("suppress", [multiclass_nms, soft_nms])
def test_suppression_as_on_the_cpu(suppress):
    boxes = make_predictions(1, make_priors(3), 2, hostile=False).boxes
    scores, labels = torch.rand(boxes.shape[:2]), torch.randint(0, 3, boxes.shape[:2])
    here = suppress(boxes, scores, labels, iou_threshold=0.3, max_detections=20)
    there = suppress(boxes.cuda(), scores.cuda(), labels.cuda(), iou_threshold=0.3, max_detections=20).to("cpu")
    for a, b in zip(tensors([here]), tensors([there]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["max_iou", "atss", "atss topk", "fcos", "tood", "simota", "rtmdet"])
def test_compiles_into_one_graph(name):
    """By the default backend, whose fused products may be rounded once instead of twice."""
    scene = crowded(2, 20, classes=4)
    torch.compiler.reset()
    found = torch.compile(ASSIGNERS[name], fullgraph=True)(*scene)
    expected = ASSIGNERS[name](*scene)
    same = expected.gt_index == found.gt_index
    assert (~same).sum() <= 4, f"{int((~same).sum())} of {same.numel()} differ"
    torch.testing.assert_close(found.score[same], expected.score[same], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", WITHOUT_CHANCE)
def test_captured_in_a_graph_and_replayed_with_other_objects(name):
    """Last in this file: a capture that fails may leave the device unusable."""
    static, other = crowded(2, 20, crowd=True), crowded(2, 20, crowd=True)
    priors, targets, predictions = other
    fewer = torch.arange(20, device="cuda") < torch.tensor([[7], [15]], device="cuda")
    moved = replace(targets, boxes=targets.boxes.flip(1), valid=fewer, crowd=targets.crowd & fewer)
    other = (priors, moved, predictions.map(lambda t: t.flip(1)))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ASSIGNERS[name](*static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = answers(ASSIGNERS[name](*static))
    for scene in (other, crowded(2, 20, crowd=True)):
        for held, new in zip(tensors(static), tensors(scene), strict=True):
            held.copy_(new)
        graph.replay()
        for expected, found in zip(answers(ASSIGNERS[name](*scene)), captured, strict=True):
            assert torch.equal(expected.gt_index, found.gt_index)
            assert torch.equal(expected.score, found.score)
