"""SSD's loss against ssd.pytorch, and the batches that it does not support."""

from pathlib import Path

import pytest
import torch

from boxwright.losses.systems import hard_negatives, multibox_loss
from goldens import golden_cases, load_case

EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("file", golden_cases("losses/ssd_multibox"))
def test_the_loss_matches_ssd(file: Path) -> None:
    case = load_case(file)
    deltas, logits = case["in_loc"].requires_grad_(), case["in_conf"].requires_grad_()
    terms = multibox_loss(
        deltas,
        logits,
        case["out_loc_targets"],
        case["out_conf_targets"],
        negative_ratio=case.param("negpos_ratio"),
    )
    torch.testing.assert_close(terms["box"], case["out_loss_l"], **EXACT)
    torch.testing.assert_close(terms["class"], case["out_loss_c"], **EXACT)
    sum(terms.values()).backward()
    torch.testing.assert_close(deltas.grad, case["grad_loc"], **EXACT)
    torch.testing.assert_close(logits.grad, case["grad_conf"], **EXACT)


@pytest.mark.parametrize("file", golden_cases("losses/ssd_multibox"))
def test_the_same_background_is_mined(file: Path) -> None:
    """When positives outnumber the background the original fills its list with positives: compare the union."""
    case = load_case(file)
    positive = case["out_pos_mask"]
    mined = hard_negatives(case["out_mining_loss"], positive, ~positive, ratio=case.param("negpos_ratio"))
    assert torch.equal(positive | mined, positive | case["out_neg_mask"])


def test_images_and_batches_without_objects() -> None:
    deltas, logits = torch.randn(2, 6, 4, requires_grad=True), torch.randn(2, 6, 3, requires_grad=True)
    labels = torch.zeros(2, 6, dtype=torch.int64)
    labels[0, 2] = 1
    one = multibox_loss(deltas, logits, torch.zeros(2, 6, 4), labels)
    torch.testing.assert_close(one, multibox_loss(deltas[:1], logits[:1], torch.zeros(1, 6, 4), labels[:1]))
    none = multibox_loss(deltas, logits, torch.zeros(2, 6, 4), torch.zeros_like(labels))
    assert none["box"].item() == none["class"].item() == 0
    sum(none.values()).backward()
    assert logits.grad.abs().max() == 0


def test_ignored_priors_are_never_mined_and_cost_nothing() -> None:
    logits = torch.zeros(1, 4, 3)
    logits[0, 0, 1] = 100.0
    labels = torch.tensor([[-1, 1, 0, 0]])
    terms = multibox_loss(torch.zeros(1, 4, 4), logits, torch.zeros(1, 4, 4), labels)
    torch.testing.assert_close(terms["class"], 3 * torch.log(torch.tensor(3.0)))
