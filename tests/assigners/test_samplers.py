"""Random, hard-negative and hard-example sampling against mmdetection, SSD and brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from boxwright.assigners import HardExampleSampler, HardNegativeSampler, RandomSampler
from boxwright.boxes import DeltaCoder, box_iou, cxcywh_to_xyxy
from boxwright.structures import BACKGROUND, IGNORED, Assignment, Priors
from boxwright.testing import check_never_waits
from goldens import golden_cases, load_case


def _assignment(gt_index: torch.Tensor) -> Assignment:
    return Assignment(gt_index, (gt_index >= 0).float())


def _counts(assignment: Assignment) -> tuple[list[int], list[int]]:
    background = assignment.gt_index == BACKGROUND
    return assignment.positive.sum(1).tolist(), background.sum(1).tolist()


@pytest.mark.parametrize("file", golden_cases("assigners/random_sampler"))
def test_counts_equal_mmdetection(file):
    """The chosen indices hang on the calls of the random generator; counts, and index sets without choice, do not."""
    case = load_case(file)
    gt_index = case["in_assigned_gt_inds"] - 1  # mmdetection: 0 background, -1 ignored
    gt_index = torch.where(gt_index == -2, IGNORED, gt_index)
    offset = 0
    if case.param("add_gt_as_proposals"):
        offset = len(case["in_gt_boxes"])
        gt_index = torch.cat([torch.arange(offset), gt_index])
    ratio = case.param("neg_pos_ub")
    sampler = RandomSampler(case.param("num"), case.param("pos_fraction"), ratio if ratio >= 0 else None)
    before = _assignment(gt_index[None])
    after = sampler(before)
    assert _counts(after) == ([case["out_num_pos"].item()], [case["out_num_neg"].item()])
    kept = after.gt_index[0] != IGNORED
    assert torch.equal(after.gt_index[0][kept], gt_index[kept])
    if before.positive.sum() == case["out_num_pos"]:
        chosen = after.positive[0].nonzero()[:, 0]
        assert torch.equal(chosen, case["out_pos_inds"])
        assert torch.equal(after.gt_index[0][chosen], case["out_pos_assigned_gt_inds"])
        assert torch.equal((chosen < offset).byte(), case["out_pos_is_gt"])
    drawn = case["out_pos_inds"]  # another choice where there is one, but of the same positives
    assert torch.equal(before.gt_index[0][drawn], case["out_pos_assigned_gt_inds"])
    assert torch.equal((drawn < offset).byte(), case["out_pos_is_gt"])
    background = (before.gt_index[0] == BACKGROUND).nonzero()[:, 0]
    if len(background) == case["out_num_neg"]:
        assert torch.equal((after.gt_index[0] == BACKGROUND).nonzero()[:, 0], case["out_neg_inds"])
    assert torch.isin(case["out_neg_inds"], background).all()


@pytest.mark.parametrize("file", golden_cases("assigners/ssd_hard_negative"))
def test_hard_negatives_and_losses_equal_ssd(file):
    case = load_case(file)
    conf, overlap = case["in_conf"], case.param("overlap")
    priors = cxcywh_to_xyxy(case["in_priors_cxcywh"])
    gt_index, labels, targets = [], [], []
    for objects, count in zip(case["in_targets"], case["in_gt_num"], strict=True):
        objects = objects[:count]
        best, index = box_iou(objects[:, :4], priors).max(dim=0)
        for gt, prior in enumerate(box_iou(objects[:, :4], priors).argmax(dim=1).tolist()):
            best[prior], index[prior] = 2, gt  # as there: the last object wins
        gt_index.append(torch.where(best < overlap, BACKGROUND, index))
        labels.append(torch.where(best < overlap, 0, objects[index, 4].long() + 1))
        targets.append(objects[index, :4])
    before = _assignment(torch.stack(gt_index))
    labels = torch.stack(labels)
    assert torch.equal(before.positive, case["out_pos"])

    loss = functional.cross_entropy(conf.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    after = HardNegativeSampler(case.param("negpos_ratio"))(before, loss)
    assert torch.equal(after.positive, case["out_pos"])
    assert torch.equal(after.gt_index == BACKGROUND, case["out_neg"] & ~case["out_pos"])
    assert _counts(after)[1] == case["out_num_neg"].tolist()
    total = before.positive.sum()
    assert ((loss * ~after.ignored).sum() / total).item() == pytest.approx(case["out_loss_c"].item(), rel=1e-5)
    grid = Priors(priors, (priors[:, :2] + priors[:, 2:]) / 2, torch.ones(len(priors)))
    deltas = DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2)).encode(grid, torch.stack(targets))
    boxes = functional.smooth_l1_loss(case["in_loc"], deltas, reduction="none") * before.positive.unsqueeze(-1)
    assert (boxes.sum() / total).item() == pytest.approx(case["out_loss_l"].item(), rel=1e-5)


scenes = st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(0, 10_000))


def _draw(images: int, priors: int, seed: int) -> tuple[Assignment, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    assignment = _assignment(torch.randint(-2, 3, (images, priors), generator=draw))
    return assignment, torch.randint(0, 6, (images, priors), generator=draw) / 5  # many ties


@settings(max_examples=50, deadline=None)
@given(scenes, st.integers(1, 50), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([None, 0.0, 1.5, 1e30]))
def test_random_counts_are_those_of_the_definition(scene, count, fraction, ratio):
    before, _ = _draw(*scene)
    after = RandomSampler(count, fraction, ratio)(before)
    for image, (positives, negatives) in enumerate(zip(*_counts(before), strict=True)):
        kept = min(int(count * fraction), positives)
        room = count - kept if ratio is None else min(count - kept, int(ratio * max(1, kept)))
        assert (_counts(after)[0][image], _counts(after)[1][image]) == (kept, min(room, negatives))
    untouched = after.gt_index != IGNORED
    assert torch.equal(after.gt_index[untouched], before.gt_index[untouched])
    assert torch.equal(after.score, after.positive.float())


def test_random_choice_follows_the_seed_and_covers_everything():
    before = _assignment(torch.full((1, 10), BACKGROUND))
    sampler = RandomSampler(3)
    choices = [sampler(before, torch.Generator().manual_seed(seed)).gt_index for seed in range(40)]
    assert torch.equal(choices[7], sampler(before, torch.Generator().manual_seed(7)).gt_index)
    assert (torch.cat(choices) == BACKGROUND).any(dim=0).all()


@settings(max_examples=50, deadline=None)
@given(scenes, st.sampled_from([0.5, 1.0, 3.0, 1e30]), st.integers(0, 3))
def test_hard_negatives_are_the_costliest(scene, ratio, minimum):
    before, loss = _draw(*scene)
    after = HardNegativeSampler(ratio, minimum)(before, loss)
    assert torch.equal(after.positive, before.positive)
    for image in range(len(loss)):
        background = (before.gt_index[image] == BACKGROUND).nonzero()[:, 0].tolist()
        room = max(int(ratio * int(before.positive[image].sum())), minimum)
        expected = sorted(background, key=lambda i: (-loss[image, i].item(), i))[:room]
        assert (after.gt_index[image] == BACKGROUND).nonzero()[:, 0].tolist() == sorted(expected)


@settings(max_examples=50, deadline=None)
@given(scenes, st.integers(1, 20))
def test_hard_examples_are_the_costliest_of_both_kinds(scene, count):
    before, loss = _draw(*scene)
    after = HardExampleSampler(count)(before, loss)
    for image in range(len(loss)):
        eligible = loss[image][~before.ignored[image]]
        kept = loss[image][~after.ignored[image]]
        assert kept.sort().values.tolist() == eligible.sort(descending=True).values[:count].flip(0).tolist()


def test_hard_examples_skip_near_duplicates_within_an_image():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]]).expand(2, 3, 4)
    before = _assignment(torch.tensor([[0, -1, -1], [-1, 0, -2]]))
    loss = torch.tensor([[3.0, 2.0, 1.0], [2.0, 3.0, 9.0]])
    for same in (boxes, boxes[0]):
        after = HardExampleSampler(2, iou_threshold=0.7)(before, loss, same)
        assert after.gt_index.tolist() == [[0, -2, -1], [-2, 0, -2]]
    with pytest.raises(ValueError, match="needs the boxes"):
        HardExampleSampler(2, iou_threshold=0.7)(before, loss)


@pytest.mark.parametrize("sampler", [RandomSampler(4), HardNegativeSampler(), HardExampleSampler(4)])
def test_samplers_compile_without_breaks(sampler):
    before, loss = _draw(2, 30, 0)
    second = None if isinstance(sampler, RandomSampler) else loss
    compiled = torch.compile(lambda a, x: sampler(a, x), fullgraph=True, backend="eager")
    torch.manual_seed(3)
    actual = compiled(before, second)
    torch.manual_seed(3)
    assert torch.equal(actual.gt_index, sampler(before, second).gt_index)


@pytest.mark.parametrize("sampler", [RandomSampler(4, 0.5, 3.0), HardNegativeSampler(), HardExampleSampler(4)])
def test_samplers_never_wait(sampler):
    before, loss = _draw(2, 30, 0)
    check_never_waits(sampler, before, *([] if isinstance(sampler, RandomSampler) else [loss]))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0), (2, 1)])
@pytest.mark.parametrize("cost", [0.0, float("nan"), float("inf")])
def test_samplers_take_what_there_is(shape, cost):
    before, loss = _assignment(torch.zeros(shape, dtype=torch.int64)), torch.full(shape, cost)
    assert torch.equal(RandomSampler(9, 1.0)(before).gt_index, before.gt_index)
    assert torch.equal(HardNegativeSampler()(before, loss).gt_index, before.gt_index)
    for overlap in (None, 0.5):
        after = HardExampleSampler(9, overlap)(before, loss, torch.zeros(*shape, 4))
        assert torch.equal(after.gt_index, before.gt_index)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (HardNegativeSampler, {"ratio": -1}, "ratio and minimum must be at least 0, got -1 and 0"),
        (HardNegativeSampler, {"minimum": -2}, r"got 3\.0 and -2"),
        (HardExampleSampler, {"count": 0}, "count must be at least 1, got 0"),
    ],
)
def test_counts_below_zero_are_refused(kind, options, words):
    with pytest.raises(ValueError, match=words):
        kind(**options)
