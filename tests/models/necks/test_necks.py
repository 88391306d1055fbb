import pytest
import torch

from boxwright.models.necks import FPN, PAN, GhostPAN

CHANNELS = [8, 12, 20]
NECKS = {
    "fpn-c5": (FPN, {"extra_levels": 2, "extra_from": "c5"}),
    "fpn-pool": (FPN, {"extra_levels": 2, "extra_from": "pool"}),
    "fpn-p5": (FPN, {"extra_levels": 2, "extra_from": "p5"}),
    "pan": (PAN, {}),
    "pan-extra": (PAN, {"extra_levels": 1, "norm": "bn"}),
    "pan-light": (PAN, {"light": True}),
    "ghost-pan": (GhostPAN, {"extra_levels": 1}),
    "ghost-pan-odd": (GhostPAN, {"extra_levels": 2, "channels": 15}),
}


def _features(height=32, width=40):
    torch.manual_seed(0)
    return [
        torch.randn(2, channels, height // 2**level, width // 2**level, requires_grad=True)
        for level, channels in enumerate(CHANNELS)
    ]


def _neck(name):
    kind, options = NECKS[name]
    return kind(CHANNELS, **{"channels": 16, **options})


@pytest.mark.parametrize("name", NECKS)
def test_levels_channels_and_gradients(name):
    neck, features = _neck(name), _features()
    outputs = neck(features)
    width = neck.channels[0]
    assert [out.shape[1] for out in outputs] == neck.channels == [width] * len(outputs)
    sizes = [out.shape[-2:] for out in outputs]
    assert sizes[:3] == [feature.shape[-2:] for feature in features]
    assert all(coarse == ((h + 1) // 2, (w + 1) // 2) for coarse, (h, w) in zip(sizes[3:], sizes[2:], strict=False))
    sum(out.square().sum() for out in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in neck.parameters())


@pytest.mark.parametrize("name", ["pan", "pan-light", "ghost-pan"])
def test_fine_features_reach_coarse_levels(name):
    """The bottom-up path is what a feature pyramid lacks."""
    features = _features()
    _neck(name)(features)[2].sum().backward()
    assert features[0].grad.abs().sum() > 0
    features = _features()
    _neck("fpn-p5")(features)[2].sum().backward()
    assert features[0].grad is None


@pytest.mark.parametrize("name", NECKS)
def test_sizes_that_do_not_halve_evenly(name):
    features = [torch.randn(2, c, h, w) for c, (h, w) in zip(CHANNELS, [(9, 13), (5, 7), (3, 4)], strict=True)]
    assert [out.shape[-2:] for out in _neck(name)(features)[:3]] == [f.shape[-2:] for f in features]


def test_a_light_pan_has_lateral_weights_only():
    neck = _neck("pan-light")
    assert sum(p.numel() for p in neck.parameters()) == sum(16 * channels + 16 for channels in CHANNELS)
    with pytest.raises(ValueError, match="extra_levels=1"):
        PAN(CHANNELS, extra_levels=1, light=True)
