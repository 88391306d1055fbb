import pytest
import torch
from torch.testing import assert_close

from boxwright.recipes import build_detector, load_recipe
from boxwright.structures import Detections, Targets

SMALL = ["data.size=64", "detector.proposals.train_post_nms=50", "detector.proposals.post_nms=30"]


def _detector(*overrides, recipe="faster-rcnn-tiny"):
    torch.manual_seed(0)
    return build_detector(load_recipe(recipe, [*SMALL, *overrides]), ["cat", "dog"])


def _batch(boxes=((10.0, 8, 60, 40), (4, 4, 30, 30)), **more):
    rows = torch.tensor(boxes).view(-1, 4)
    objects = {"boxes": rows, "labels": torch.arange(len(rows)) % 2} | more
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    return torch.rand(2, 3, 64, 64), Targets.from_list([objects, nothing])


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["detector.regions.class_agnostic=true", "criterion.roi.box.type=giou"],
        ["criterion.rpn.classification.type=softmax-cross-entropy", "criterion.roi.classification.type=sigmoid-focal"],
        ["detector.backbone.levels=[4]", "detector.neck.type=bare", "detector.priors.type=rcnn-anchors",
         "detector.priors.scales=[1,2]", "criterion.rpn.assigner.border=0"],
        ["criterion.rpn.assigner.type=atss", "criterion.rpn.classification.type=sigmoid-focal"],
    ],
)  # fmt: skip
def test_losses_are_finite_and_reach_every_parameter(overrides):
    detector = _detector(*overrides).train()
    losses = detector(*_batch())
    assert [*losses] == ["rpn_class", "rpn_box", "roi_class", "roi_box"]
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


@pytest.mark.parametrize(
    "batch",
    [
        _batch(()),
        _batch(((0.0, 0, 64, 64),), iscrowd=torch.tensor([1])),
        _batch([[float(i % 40), 0, i % 40 + 9, 20] for i in range(80)]),
        _batch(((5.0, 5, 5, 5),)),
    ],
    ids=["no objects", "all crowd", "more objects than proposals", "no area"],
)
def test_hostile_images_train(batch):
    detector = _detector().train()
    losses = detector(*batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())


def test_a_process_without_images_has_losses_and_gradients():
    detector = _detector().train()
    losses = detector(torch.zeros(0, 3, 64, 64), Targets.from_list([]))
    assert sum(losses.values()) == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in detector.parameters())
    with torch.no_grad():
        assert len(detector.eval()(torch.zeros(0, 3, 64, 64))) == 0


def test_no_proposals_at_all():
    detector = _detector("detector.proposals.min_size=100")
    images, targets = _batch()
    losses = detector.train()(images, targets)
    assert losses["roi_class"] > 0  # the objects themselves
    with torch.no_grad():
        assert detector.eval()(images).count.tolist() == [0, 0]
    losses = detector.train()(*_batch(()))
    assert losses["roi_class"] == losses["roi_box"] == 0


@pytest.mark.parametrize("overrides", [[], ["detector.regions.class_agnostic=true"]])
def test_detections_lie_in_their_images(overrides):
    detector = _detector(*overrides, "detector.inference.score_threshold=0.0").eval()
    images = [torch.rand(3, 48, 96), torch.randint(0, 256, (3, 40, 20), dtype=torch.uint8)]
    with torch.no_grad():
        detections = detector(images)
    assert isinstance(detections, Detections)
    for image, output in zip(images, detections, strict=True):
        assert len(output["boxes"]) > 0
        height, width = image.shape[-2:]
        assert (output["boxes"] >= 0).all()
        assert (output["boxes"] <= torch.tensor([width, height] * 2) + 1e-3).all()


def test_every_class_has_the_box_of_its_own():
    """A head that moves class 1 and not class 0 is heard class by class."""
    detector = _detector("detector.inference.score_threshold=0.0").eval()
    with torch.no_grad():
        detector.regions.box_params.weight.zero_()
        detector.regions.box_params.bias.copy_(torch.tensor([0.0, 0, 0, 0, 0, 0, -5, -5]))
        images = torch.rand(1, 3, 64, 64)
        found = detector(images)[0]
        proposals = detector.propose(images)[0]
    of_class = [found["boxes"][found["labels"] == label] for label in (0, 1)]
    distance = (of_class[0][:, None] - proposals).abs().amax(-1).amin(1)
    assert (distance < 1e-3).all()
    sides = [(boxes[:, 2:] - boxes[:, :2]).mean() for boxes in of_class]
    assert_close(sides[1] / sides[0], torch.tensor(1.0).neg().exp(), rtol=0.5, atol=0)


def test_fused_it_finds_the_same():
    detector = _detector().train()
    for _ in range(3):
        detector(*_batch())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = detector.eval().propose(images)
        after = detector.fuse().propose(images)
    distance = (before[0][:, None] - after[0]).abs().amax(-1).amin(1)
    assert (distance < 0.5).float().mean() > 0.9


def test_a_step_of_alternating_training_leaves_the_rest_alone():
    detector = _detector().train_only("rpn").train()
    losses = detector(*_batch())
    assert [*losses] == ["rpn_class", "rpn_box"]
    learns = {name.partition(".")[0] for name, p in detector.named_parameters() if p.requires_grad}
    assert learns == {"backbone", "neck", "head"}
    proposer = _detector()
    detector = _detector().train_only("roi", trunk=False, proposer=proposer).train()
    assert not detector.backbone.training
    assert detector.regions.training
    assert [*detector(*_batch())] == ["roi_class", "roi_box"]
    assert {name.partition(".")[0] for name, p in detector.named_parameters() if p.requires_grad} == {"regions"}
    assert not any(key.startswith("_proposer") for key in detector.state_dict())
    assert len(detector.state_dict()) == len(proposer.state_dict())


def test_the_second_stage_sees_what_the_proposer_proposes():
    proposer = _detector()
    detector = _detector().train_only("roi", proposer=proposer)
    seen = []
    detector.regions.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    images = torch.rand(2, 3, 64, 64)
    detector.eval()
    with torch.no_grad():
        detector(images)
        assert torch.equal(seen[0], proposer.propose(images))
        for parameter in proposer.head.parameters():
            parameter.normal_()
        detector(images)
        assert torch.equal(seen[1], proposer.propose(images))
    assert not torch.equal(seen[0], seen[1])
