"""Heads stage by stage against GFL, GFLv2, TOOD and PaddleDetection, with their weights."""

import pytest
import torch
from torch import Tensor, nn

from boxwright.boxes import DistanceCoder, IntegralCoder, PointGenerator, clip_boxes
from boxwright.models.heads import GFLHead, PPYOLOEHead, TOODHead
from boxwright.models.heads.quality import DistributionQuality, product_logit
from boxwright.models.heads.tood import _sample
from boxwright.structures import Predictions, Priors
from goldens import Case, golden_cases, load_case

NAMES = {  # ours, theirs
    GFLHead: [
        ("class_tower", "cls_convs"),
        ("box_tower", "reg_convs"),
        ("class_logits", "gfl_cls"),
        ("distribution", "gfl_reg"),
        ("quality__layers", "reg_conf"),
    ],
    TOODHead: [
        ("stack", "inter_convs"),
        ("class_features", "cls_decomp"),
        ("box_features", "reg_decomp"),
        ("attention__0", "la_conv1"),
        ("attention__2", "la_conv2"),
        ("mix", "reduction_conv"),
        ("class_logits", "tood_cls"),
        ("box_params", "tood_reg"),
        ("probability__0", "cls_prob_conv1"),
        ("probability__2", "cls_prob_conv2"),
        ("offsets__0", "reg_offset_conv1"),
        ("offsets__2", "reg_offset_conv2"),
    ],
    PPYOLOEHead: [
        ("class_stems", "stem_cls"),
        ("box_stems", "stem_reg"),
        ("class_logits", "pred_cls"),
        ("distributions", "pred_reg"),
        ("mix__0", "conv__conv"),
        ("mix__1", "conv__bn"),
        ("running_mean", "_mean"),
        ("running_var", "_variance"),
    ],
}


def _loaded(head: nn.Module, case: Case) -> nn.Module:
    """Fill a head with the golden weights; every weight of the head must be among them."""
    state = {}
    scales = sorted(key for key in case if key.startswith("in_w__scales"))
    for name, own in head.state_dict().items():
        if name == "scales":
            state[name] = torch.cat([case[key].reshape(1) for key in scales])
            continue
        if name.endswith("num_batches_tracked"):
            state[name] = own
            continue
        key = name.replace(".", "__")
        for ours, theirs in NAMES[type(head)]:
            key = key.replace(ours, theirs)
        if isinstance(head, PPYOLOEHead):
            key = key.replace("__weight__", "__fc__")
        candidates = [f"in_w__{key}"]
        for layer, names in ((0, ("conv",)), (1, ("gn", "norm"))):  # members of their convolution modules
            candidates += [f"in_w__{_replace_last(key, f'__{layer}__', f'__{part}__')}" for part in names]
        value = next(case[candidate] for candidate in candidates if candidate in case)
        state[name] = value.reshape(own.shape)
    head.load_state_dict(state)
    for module in head.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = case.param("gn_groups")
    return head.eval()


def _replace_last(text: str, old: str, new: str) -> str:
    return new.join(text.rsplit(old, 1))


def _features(case: Case) -> list[Tensor]:
    return [case[f"in_feat{level}"] for level in range(sum(key.startswith("in_feat") for key in case))]


def _priors(case: Case, offset: float) -> Priors:
    sizes = [tuple(feature.shape[-2:]) for feature in _features(case)]
    return PointGenerator(tuple(float(s) for s in case["param_strides"].tolist()), offset)(sizes)


def _maps(head: nn.Module, case: Case) -> tuple[dict[str, list[Tensor]], Predictions]:
    """Run a head and record what its parts answered, level by level."""
    seen: dict[str, list[Tensor]] = {}
    for name, module in head.named_modules():

        def keep(_module, _inputs, out, name=name):  # a copy, because the ReLU behind may work in place
            seen.setdefault(name, []).append(out.clone() if isinstance(out, Tensor) else out)

        module.register_forward_hook(keep)
    with torch.no_grad():
        predictions = head(_features(case))
    return seen, predictions


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def _levels(case: Case, suffix: str) -> list[tuple[int, Tensor]]:
    """Golden arrays `out_l<level>_<suffix>` that a case stores."""
    found = ((level, f"out_l{level}_{suffix}") for level in range(8))
    return [(level, case[key]) for level, key in found if key in case]


@pytest.mark.parametrize("file", golden_cases("assigners/gfl_head"))
def test_gfl_equals_the_original(file):
    case = load_case(file)
    channels = case["in_w__gfl_cls__weight"].shape[1]
    features, reg_max = _features(case), case.param("reg_max")
    head = GFLHead(
        [f.shape[1] for f in features],
        case.param("num_classes"),
        convs=case.param("stacked_convs"),
        channels=channels,
        reg_max=reg_max,
    )
    seen, predictions = _maps(_loaded(head, case), case)
    for level, expected in _levels(case, "cls_score"):
        _close(seen["class_logits"][level], expected)
    for level, expected in _levels(case, "bbox_pred"):
        _close(seen["distribution"][level] * head.scales[level], expected)
    _close(predictions.logits.sigmoid(), case["out_scores_with_bg_pad"][..., :-1])
    boxes = IntegralCoder(reg_max).decode(_priors(case, 0.0), predictions.params)
    _close(clip_boxes(boxes, tuple(case["param_img_shape"][:2].tolist())), case["out_boxes"])


@pytest.mark.parametrize("file", golden_cases("assigners/gfocal_head"))
def test_gflv2_equals_the_original(file):
    """Its reference configuration carries a class channel that nothing uses; the weights are loaded with it."""
    case = load_case(file)
    features, reg_max = _features(case), case.param("reg_max")
    head = GFLHead(
        [f.shape[1] for f in features],
        case["in_w__gfl_cls__weight"].shape[0],
        convs=case.param("stacked_convs"),
        channels=case["in_w__gfl_cls__weight"].shape[1],
        reg_max=reg_max,
        quality=True,
        quality_hidden=case.param("reg_channels"),
    )
    if (case.param("reg_topk"), case.param("add_mean")) != (4, True):
        head.quality = DistributionQuality(
            reg_max, case.param("reg_topk"), case.param("add_mean"), case.param("reg_channels")
        )
    seen, predictions = _maps(_loaded(head, case), case)
    for level, expected in _levels(case, "stat"):
        _close(head.quality.statistics(seen["distribution"][level] * head.scales[level]), expected)
    for level, expected in _levels(case, "quality"):
        _close(seen["quality"][level].sigmoid(), expected)
    for level, expected in _levels(case, "cls_logits"):
        _close(seen["class_logits"][level], expected)
    for level, expected in _levels(case, "cls_score"):
        _close(product_logit(seen["class_logits"][level], seen["quality"][level]).sigmoid(), expected)
    for level, expected in _levels(case, "bbox_pred"):
        _close(seen["distribution"][level] * head.scales[level], expected)
    _close(predictions.logits.sigmoid(), case["out_scores_with_bg_pad"][..., :-1])
    boxes = IntegralCoder(reg_max).decode(_priors(case, 0.0), predictions.params)
    _close(clip_boxes(boxes, tuple(case["param_img_shape"][:2].tolist())), case["out_boxes"])


def _tood(case: Case, **options) -> TOODHead:
    features = _features(case)
    return TOODHead(
        [f.shape[1] for f in features],
        case.param("num_classes"),
        convs=case.param("stacked_convs"),
        channels=case.param("feat_channels"),
        **options,
    )


def _check_tood(head: TOODHead, case: Case, seen: dict[str, list[Tensor]]) -> None:
    parts = {
        "cls_decomp": "class_features",
        "reg_decomp": "box_features",
        "cls_layer_attention": "class_features.attention",
        "reg_layer_attention": "box_features.attention",
        "tood_cls": "class_logits",
        "tood_reg": "box_params",
        "cls_prob_conv1": "probability.0",
        "cls_prob_conv2": "probability",
        "reg_offset_conv1": "offsets.0",
        "reg_offset_conv2": "offsets",
        **{f"inter{index}": f"stack.{index}" for index in range(len(head.stack))},
    }
    for theirs, ours in parts.items():
        for level, expected in _levels(case, theirs):
            _close(seen[ours][level], expected)
    for level, expected in _levels(case, "reg_bbox_before_sampling"):
        _close(head._sides(seen["box_params"][level], head.scales[level]), expected)


@pytest.mark.parametrize("file", golden_cases("assigners/tood_head"))
def test_tood_equals_the_original(file):
    case = load_case(file)
    anchor_based = str(case["param_anchor_type"]) == "anchor_based"
    scale = float(case.param("octave_base_scale")) if anchor_based else None
    head = _loaded(_tood(case, anchor_scale=scale), case)
    seen, predictions = _maps(head, case)
    _check_tood(head, case, seen)
    for level, expected in _levels(case, "bbox_pred"):
        sides = head._sides(seen["box_params"][level], head.scales[level])
        _close(_sample(sides, seen["offsets"][level], "bilinear"), expected)
    _close(predictions.logits.sigmoid(), case["out_scores_with_bg_pad"][..., :-1])
    boxes = DistanceCoder().decode(_priors(case, 0.0), predictions.params)
    _close(clip_boxes(boxes, tuple(case["param_img_shape"][:2].tolist())), case["out_boxes"])


@pytest.mark.parametrize("file", golden_cases("assigners/tood_head_paddle"))
def test_tood_equals_paddle(file):
    case = load_case(file)
    head = _loaded(_tood(case, offset=case.param("grid_cell_offset"), sampling="paddle"), case)
    seen, predictions = _maps(head, case)
    _check_tood(head, case, seen)
    for level, expected in _levels(case, "reg_bbox_after_sampling"):
        sides = head._sides(seen["box_params"][level], head.scales[level])
        _close(_sample(sides, seen["offsets"][level], "paddle"), expected)
    _close(predictions.logits.sigmoid(), case["out_cls_scores"])
    boxes = DistanceCoder().decode(_priors(case, case.param("grid_cell_offset")), predictions.params)
    _close(boxes, case["out_boxes"])


@pytest.mark.parametrize("file", golden_cases("assigners/ppyoloe_head"))
def test_ppyoloe_equals_paddle(file):
    case = load_case(file)
    assert str(case["param_act"]) == "swish"
    head = PPYOLOEHead(case["param_channels"].tolist(), case.param("num_classes"), reg_max=case.param("reg_max"))
    seen, predictions = _maps(_loaded(head, case), case)
    for theirs, ours in (("stem_cls", "class_stems"), ("stem_reg", "box_stems"), ("pred_reg", "distributions")):
        for level, expected in _levels(case, theirs):
            _close(seen[f"{ours}.{level}"][0], expected)
    coder = IntegralCoder(case.param("reg_max"))
    _close(predictions.logits.sigmoid().mT, case["out_scores"])
    _close(coder.distances(predictions.params), case["out_distances"])
    _close(coder.decode(_priors(case, 0.5), predictions.params), case["out_boxes"])


def test_no_offset_is_no_change_but_for_paddle():
    maps = torch.randn(1, 4, 3, 5)
    offsets = torch.zeros(1, 8, 3, 5)
    _close(_sample(maps, offsets, "bilinear"), maps)
    assert (_sample(maps, offsets, "paddle") - maps).abs().max() > 0.1
    single = torch.randn(2, 4, 1, 1)
    _close(_sample(single, torch.zeros(2, 8, 1, 1), "bilinear"), single)


def test_product_logits_are_finite_and_exact():
    first = torch.tensor([-1e4, -5.0, 0.0, 5.0, 30.0, 1e4], requires_grad=True)
    second = torch.tensor([3.0, -2.0, 1.0, 5.0, 30.0, 1e4])
    logit = product_logit(first, second, 0.5)
    expected = (first.double().sigmoid() * second.double().sigmoid()).sqrt()
    torch.testing.assert_close(logit.double().sigmoid(), expected, atol=1e-6, rtol=1e-5)
    assert torch.isfinite(logit).all()
    logit.sum().backward()
    assert torch.isfinite(first.grad).all()


@pytest.mark.parametrize("head", [GFLHead, TOODHead, PPYOLOEHead])
def test_start_and_gradients(head):
    torch.manual_seed(0)
    options = {} if head is PPYOLOEHead else {"convs": 2, "channels": 16}
    module = head([8, 8], 3, **options)
    features = [torch.randn(2, 8, 4, 6, requires_grad=True), torch.randn(2, 8, 2, 3)]
    predictions = module(features)
    assert predictions.logits.shape == (2, 30, 3)
    score = predictions.logits.sigmoid().mean()
    assert 0.003 < score < 0.03
    (predictions.logits.sum() + predictions.params.square().sum()).backward()
    assert torch.isfinite(features[0].grad).all()
    unused = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert unused == []
    with pytest.raises(ValueError, match="priors_per_cell=3"):
        head([8, 8], 3, 3)
