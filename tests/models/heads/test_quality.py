"""The quality predictor of GFLv2 against its golden cases."""

from pathlib import Path

import pytest

from boxwright.models.heads.quality import DistributionQuality, product_logit
from goldens import close, golden_cases, load_case


@pytest.mark.parametrize("file", golden_cases("losses/gflv2_dgqp"))
def test_golden_gflv2_dgqp(file: Path) -> None:
    case = load_case(file)
    topk, add_mean = case.param("topk"), bool(case.param("add_mean"))
    logits, maps = case["in_cls_logits"].requires_grad_(), case["in_dist_logits"].requires_grad_()
    reg_max = maps.shape[1] // 4 - 1
    module = DistributionQuality(reg_max, topk, add_mean, hidden=len(case["in_conv1_bias"])).double()
    first, last = module.layers[0], module.layers[2]
    for parameter, name in ((first, "conv1"), (last, "conv2")):
        parameter.weight.data = case[f"in_{name}_weight"]
        parameter.bias.data = case[f"in_{name}_bias"]
    close(module.statistics(maps), case["out_statistics"])
    quality = module(maps)
    close(quality.sigmoid(), case["out_quality"])
    joint = product_logit(logits, quality).sigmoid()
    close(joint, case["out_joint_score"])
    (joint * case["in_upstream_grad"]).sum().backward()
    close(logits.grad, case["grad_cls_logits"])
    close(maps.grad, case["grad_dist_logits"])
    for parameter, name in ((first, "conv1"), (last, "conv2")):
        close(parameter.weight.grad, case[f"grad_{name}_weight"])
        close(parameter.bias.grad, case[f"grad_{name}_bias"])
