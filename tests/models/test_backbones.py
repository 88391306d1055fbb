import pytest
import torch
from safetensors.torch import save_file
from torchvision.ops import FrozenBatchNorm2d

from boxwright.errors import RunError
from boxwright.models import Backbone
from boxwright.recipes import build_detector, load_recipe


@pytest.mark.parametrize("name", ["resnet10t", "lcnet_050", "convnext_atto"])
def test_levels_have_their_strides(name):
    backbone = Backbone(name, levels=(3, 5)).eval()
    features = backbone(torch.zeros(1, 3, 64, 64))
    assert [feature.shape[-1] for feature in features] == [8, 2]
    assert [feature.shape[1] for feature in features] == backbone.channels


@pytest.mark.parametrize("name", ["resnet10t", "lcnet_050", "convnext_atto"])
def test_frozen_stages_neither_learn_nor_update_their_statistics(name):
    backbone = Backbone(name, frozen_stages=1).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    sum(feature.sum() for feature in backbone(torch.rand(2, 3, 64, 64))).backward()
    frozen = {key for key, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert len(frozen) < len([*backbone.parameters()])
    first = next(iter(backbone.named_parameters()))[0]
    assert first in frozen
    changed = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert not any(key.rsplit(".", 1)[0] == frozen_key.rsplit(".", 1)[0] for key in changed for frozen_key in frozen)


def test_norms():
    frozen = Backbone("resnet10t", norm="frozen-bn")
    assert any(isinstance(module, FrozenBatchNorm2d) for module in frozen.modules())
    group = Backbone("resnet10t", norm="gn")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in group.modules())


def test_weights_from_a_local_file(tmp_path):
    source = Backbone("resnet10t")
    file = tmp_path / "weights.safetensors"
    save_file(source.body.state_dict(), file)
    loaded = Backbone("resnet10t", weights=str(file))
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "resnet10x"}, "timm has no model 'resnet10x'"),
        ({"name": "resnet10t", "levels": (3, 6)}, r"none at \[64\]"),
        ({"name": "resnet10t", "weights": "missing.safetensors"}, "there is no file missing.safetensors"),
        ({"name": "vit_tiny_patch16_224", "levels": (3,)}, "vit_tiny_patch16_224"),
        ({"name": "nest_tiny", "levels": (3,)}, "does not take images of any size .*doesn't match model"),
        ({"name": "inception_v3", "levels": (3, 4)}, "its cells are not a grid of its strides"),
    ],
)
def test_what_cannot_be_built_is_named(options, words):
    with pytest.raises(RunError, match=words):
        Backbone(**options)


@pytest.mark.slow
def test_swin_takes_images_of_any_size():
    features = Backbone("swin_tiny_patch4_window7_224").eval()(torch.zeros(1, 3, 96, 60))
    assert [feature.shape[1:] for feature in features] == [(192, 12, 8), (384, 6, 4), (768, 3, 2)]


@pytest.mark.parametrize("name", ["vgg11", "test_resnet", "dla46x_c"])
def test_a_level_has_the_cells_that_its_stride_rounds_up_to(name):
    levels = Backbone(name, levels=(3, 4)).eval()(torch.zeros(1, 3, 75, 90))
    assert [level.shape[-2:] for level in levels] == [(10, 12), (5, 6)]


@pytest.mark.parametrize("name", ["hrnet_w18_small", "convnext_atto"])
def test_an_image_of_any_sides_is_padded_to_what_the_model_needs(name):
    backbone, images = Backbone(name).eval(), torch.rand(1, 3, 97, 132)
    padded = torch.zeros(1, 3, 128, 160)
    padded[..., :97, :132] = images
    for level, whole in zip(backbone(images), backbone(padded), strict=True):
        torch.testing.assert_close(level, whole[..., : level.shape[-2], : level.shape[-1]])
    assert [level.shape[-2:] for level in backbone(images)] == [(13, 17), (7, 9), (4, 5)]


@pytest.mark.parametrize("neck", ["pan", "ghost-pan"])
def test_a_neck_takes_the_levels_of_any_model_at_any_size(neck):
    overrides = ["backbone.name=convnext_atto", f"neck.type={neck}", "neck.channels=32", "neck.extra_levels=2"]
    recipe = load_recipe("retinanet-tiny", ["data.size=200", *(f"detector.{change}" for change in overrides)])
    detector = build_detector(recipe, ["a"]).train()
    target = {"boxes": torch.tensor([[8.0, 8.0, 60.0, 70.0]]), "labels": torch.tensor([0])}
    losses = detector([torch.rand(3, 90, 100)] * 2, [target] * 2)
    assert all(loss.isfinite() for loss in losses.values())
