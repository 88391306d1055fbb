"""darknet's yolo layer and network cost."""

from pathlib import Path

import pytest
import torch

from boxwright.losses.systems import darknet_yolo_loss, network_cost
from goldens import golden_cases, load_case

DARKNET = {"rtol": 5e-5, "atol": 5e-5}


@pytest.mark.parametrize("file", golden_cases("losses/darknet_yolo"))
def test_the_layer_matches_darknet(file: Path) -> None:
    case = load_case(file)
    output, truth = case["in_input"].requires_grad_(), case["in_truth"]
    terms = darknet_yolo_loss(
        output,
        truth[..., :4],
        truth[..., 4].long(),
        (truth[..., 0] != 0).long().cumprod(1).bool(),
        anchors=case["in_biases"].view(-1, 2),
        mask=case["in_mask"].tolist(),
        net_size=(case.param("net_h"), case.param("net_w")),
        ignore_thresh=case.param("ignore_thresh"),
        truth_thresh=case.param("truth_thresh"),
    )
    total = sum(terms.values())
    torch.testing.assert_close(total, case["out_cost"].squeeze(), **DARKNET)
    total.backward()
    torch.testing.assert_close(-output.grad, case["out_delta"], **DARKNET)


@pytest.mark.parametrize("file", golden_cases("losses/darknet_network_cost"))
def test_the_network_cost_is_the_mean_over_layers_that_have_one(file: Path) -> None:
    case = load_case(file)
    costs = [
        cost if has_cost else None for cost, has_cost in zip(case["in_layer_costs"], case["in_has_cost"], strict=True)
    ]
    torch.testing.assert_close(network_cost(costs), case["out_cost"], rtol=2e-5, atol=2e-5)
