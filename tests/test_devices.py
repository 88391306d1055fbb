"""What a device without float64 can do, found out without one: all but the ranking losses, and as the host does it."""

import copy

import pytest
import torch
from torch import nn

import boxwright.losses
from assigner_forms import ASSIGNERS, answers
from assignment_scenes import make_predictions, make_priors, make_targets
from boxwright.assigners import HardExampleSampler, HardNegativeSampler, RandomSampler
from boxwright.boxes import (
    AnchorGenerator,
    DeltaCoder,
    DistanceCoder,
    FineGrainedCoder,
    IntegralCoder,
    PointCoder,
    YOLOCoder,
    YOLOv5Coder,
    multiclass_nms,
    soft_nms,
)
from boxwright.errors import BoxwrightError
from boxwright.recipes import build_detector, load_recipe, recipe_names
from boxwright.structures import Assignment, Detections, Targets
from boxwright.testing import random_problem
from boxwright.testing.subject import Subject
from pretended_mps import DEVICE, pretended_mps

RANKING = {"ALRPLoss", "APLoss", "RankSortLoss"}
OPTIONS = {"SeesawLoss": {"num_classes": 4}, "EqualizedV2Loss": {"num_classes": 5}, "FederatedLoss": {"classes": 5}}
LOSSES = sorted(
    name for name, loss in vars(boxwright.losses).items()
    if isinstance(loss, type) and issubclass(loss, nn.Module) and name not in {"ClassificationLoss", *RANKING}
)  # fmt: skip
TINY = [name for name in recipe_names() if name.endswith("-tiny") and not name.startswith(("alrp", "ap-", "rank-"))]


@pytest.mark.parametrize("name", ASSIGNERS)
def test_assigners(name):
    priors, targets = make_priors(3), make_targets(0, 2, 5, hostile=False, crowd=True)
    scene = priors, targets, make_predictions(0, priors, 2, hostile=False)
    expected = answers(ASSIGNERS[name](*scene))
    with pretended_mps():
        found = answers(ASSIGNERS[name](*(part.to(DEVICE) for part in scene)))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.gt_index.cpu(), other.gt_index)
            torch.testing.assert_close(one.score.cpu(), other.score)


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    loss = getattr(boxwright.losses, name)(**OPTIONS.get(name, {}))
    kind = {"FineGrainedLocalizationLoss": "distribution"}.get(name)
    problem = random_problem(Subject.of(loss, kind).kind).to(torch.float32)
    if name == "FineGrainedLocalizationLoss":
        loss = boxwright.losses.FineGrainedLocalizationLoss(bins=8)
    problem = problem.only(Subject.of(loss, kind).accepted)

    def step(loss, inputs, targets, options):
        inputs = inputs.clone().requires_grad_()
        value = loss(inputs, targets, **options)
        value.backward()
        return value.detach(), inputs.grad, *loss.state_dict().values()

    moved = copy.deepcopy(loss)
    expected = step(loss, problem.inputs, problem.targets, problem.options)
    with pretended_mps():
        options = {key: option.to(DEVICE) for key, option in problem.options.items()}
        found = step(moved.to(DEVICE), problem.inputs.to(DEVICE), problem.targets.to(DEVICE), options)
        for one, other in zip(found, expected, strict=True):
            assert one.device == DEVICE
            torch.testing.assert_close(one.cpu(), other, check_dtype=False)


@pytest.mark.parametrize("name", ["GHMCLoss", "EqualizedV2Loss", "SeesawLoss", "WiseIoULoss"])
def test_state_moves_there_and_back(name):
    build = getattr(boxwright.losses, name)
    loss = build(**OPTIONS.get(name, {}))
    for number, buffer in enumerate(loss.state_dict().values()):
        buffer.fill_(number + 3)
    with pretended_mps():
        there = build(**OPTIONS.get(name, {})).to(DEVICE)
        there.load_state_dict(loss.state_dict())
        back = build(**OPTIONS.get(name, {}))
        back.load_state_dict({key: buffer.cpu() for key, buffer in there.state_dict().items()})
    for key, buffer in loss.state_dict().items():
        assert torch.equal(back.state_dict()[key], buffer)
        assert back.state_dict()[key].dtype == buffer.dtype


@pytest.mark.parametrize("name", sorted(RANKING))
def test_ranking_losses_say_that_they_cannot(name):
    loss = getattr(boxwright.losses, name)()
    inputs, targets = torch.zeros(3, 2, requires_grad=True), torch.tensor([0, -1, 1])
    boxes = [torch.zeros(3)] if name == "ALRPLoss" else []
    with pretended_mps(), pytest.raises(BoxwrightError, match=r"ranking loss \w+ counts in float64, which mps lacks"):
        loss.to(DEVICE)(*(tensor.to(DEVICE) for tensor in (inputs, targets, *boxes)))


@pytest.mark.parametrize(
    "coder",
    [DeltaCoder(), DistanceCoder(), FineGrainedCoder(), IntegralCoder(), PointCoder(), YOLOCoder(), YOLOv5Coder()],
    ids=lambda coder: type(coder).__name__,
)
def test_coders(coder):
    generator = AnchorGenerator.square((8.0,), scale=4, offset=0.5)
    boxes = torch.tensor([[1.0, 2, 30, 40]]).expand(2, 4, 4)
    params = torch.randn(2, 4, 4 * (getattr(coder, "reg_max", 0) + 1), generator=torch.Generator().manual_seed(0))
    priors = generator([(2, 2)])
    with pretended_mps():
        there = generator([(2, 2)], DEVICE)
        torch.testing.assert_close(coder.encode(there, boxes.to(DEVICE)).cpu(), coder.encode(priors, boxes))
        torch.testing.assert_close(coder.decode(there, params.to(DEVICE)).cpu(), coder.decode(priors, params))


@pytest.mark.parametrize("suppress", [multiclass_nms, soft_nms])
@pytest.mark.parametrize("count", [40, 1200])  # torchvision goes class by class where there are many
def test_suppression(suppress, count):
    draw = torch.Generator().manual_seed(0)
    corner = torch.rand(2, count, 2, generator=draw) * 300
    boxes = torch.cat([corner, corner + 20 + torch.rand(2, count, 2, generator=draw) * 60], dim=-1)
    scores = torch.rand(2, count, generator=draw)
    labels = torch.randint(5, (2, count), generator=draw)
    expected = suppress(boxes, scores, labels)
    with pretended_mps():
        found = suppress(*(tensor.to(DEVICE) for tensor in (boxes, scores, labels))).to("cpu")
        assert torch.equal(found.boxes, expected.boxes)
        assert torch.equal(found.count, expected.count)


@pytest.mark.parametrize("sampler", [HardNegativeSampler(), HardExampleSampler(9), HardExampleSampler(9, 0.5)])
def test_samplers(sampler):
    priors = make_priors(3)
    before = ASSIGNERS["max_iou"](priors, make_targets(0, 2, 5, hostile=False, crowd=True), None)
    rest = [torch.rand(before.gt_index.shape, generator=torch.Generator().manual_seed(0))]
    rest += [priors.boxes] if isinstance(sampler, HardExampleSampler) else []
    expected = sampler(before, *rest)
    with pretended_mps():
        found = sampler(before.to(DEVICE), *(tensor.to(DEVICE) for tensor in rest))
        assert torch.equal(found.gt_index.cpu(), expected.gt_index)


def test_random_sampler():
    with pretended_mps():
        after = RandomSampler(4)(Assignment(torch.tensor([[0, -1, -1, -1, -1, -2]]), torch.zeros(1, 6)).to(DEVICE))
        assert (after.gt_index.cpu() == -1).sum() == 3


@pytest.mark.parametrize("name", TINY)
def test_recipes_train_and_predict(name):
    torch.manual_seed(0)
    recipe = load_recipe(name, ["data.size=64", "detector.inference.score_threshold=0"])
    detector = build_detector(recipe, ["a", "b"], class_counts=torch.tensor([3, 40]), pretrained=False)
    scene = Targets.from_list(
        [
            {"boxes": torch.tensor([[10.0, 8, 60, 40], [4, 4, 20, 20]]), "labels": torch.tensor([0, 1])},
            {"boxes": torch.tensor([[10.0, 30, 60, 60]]), "labels": torch.tensor([1])},
        ]
    )
    images = torch.rand(2, 3, 64, 64)
    for module in detector.modules():
        if hasattr(module, "set_epoch"):
            module.set_epoch(1000)
    here, deterministic = copy.deepcopy(detector).train(), not name.startswith(("faster-rcnn", "nanodet"))
    expected = here(images, scene)
    with pretended_mps():
        there = detector.to(DEVICE).train()
        losses = there(images.to(DEVICE), scene.to(DEVICE))
        sum(losses.values()).backward()
        for key, loss in losses.items():
            assert loss.isfinite().cpu()
            if deterministic:
                torch.testing.assert_close(loss.detach().cpu(), expected[key].detach(), rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            found = there.eval()(list(images.to(DEVICE))).to("cpu")
    assert isinstance(found, Detections)
    assert all(parameter.grad is not None for parameter in there.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda x: x.double(), "no torch.float64"),
        (lambda x: x.sum(dtype=torch.float64), "no torch.float64"),
        (lambda x: torch.zeros(2, dtype=torch.complex128, device=x.device), "no torch.complex128"),
        (lambda x: torch.ones(2, dtype=torch.float64).to(x.device), "no torch.float64"),
        (lambda x: torch.zeros(3, dtype=torch.float64).copy_(x), "no torch.float64"),
        (lambda x: x + torch.ones(3), "on the host"),
        (lambda x: torch.rand(3, device=x.device, generator=torch.Generator()), "generator of the host"),
        (lambda x: torch.ones(3).to(x.device, non_blocking=True), "without waiting"),
    ],
)
def test_the_pretence_refuses_what_mps_does(function, complaint):
    with pretended_mps(), pytest.raises((TypeError, RuntimeError), match=complaint):
        function(torch.ones(3).to(DEVICE))


def test_the_host_of_the_pretence_is_free():
    with pretended_mps():
        there = torch.ones(3).to(DEVICE)
        assert there.device.type == "mps"
        assert (there * 2).cpu().double().sum() == 6
        assert (torch.zeros(3, dtype=torch.float64) + 1).sum() == 3


def test_batch_norm_is_kept_from_channels_last():
    norm, images = nn.BatchNorm2d(2), torch.rand(2, 2, 3, 3)
    with pretended_mps():
        norm = norm.to(DEVICE)
        norm(images.to(DEVICE)).sum().backward()
        with pytest.raises(RuntimeError, match="wrong gradients"):
            norm(images.to(DEVICE).contiguous(memory_format=torch.channels_last)).sum().backward()
