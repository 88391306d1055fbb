"""Backbones by timm name."""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants
from timm.layers import Format
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from boxwright.errors import RunError
from boxwright.models.layers import group_norm

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """A timm model that returns one feature map per level, level n having stride 2**n.

    Models that need sides that their coarsest stride divides, or leave out what is beyond it, get images padded with
    zeros at the right and at the bottom; cells that see nothing but padding are cut off again.

    Args:
        name: a timm model that offers `features_only`.
        levels: the levels to return, finest first, for example (3, 4, 5).
        pretrained: load timm's weights (from its cache or over the network).
        weights: load this local file (.safetensors or a torch state dictionary) instead.
        frozen_stages: how many stages, counted from the stem, do not learn; their norm layers keep their statistics.
        norm: "bn" as the model has it, "frozen-bn" with fixed statistics and scale, "gn" for group norm.

    Raises:
        RunError: the model is unknown, lacks a level, takes images of one size only, or its weights cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        levels: Sequence[int] = (3, 4, 5),
        pretrained: bool = False,
        weights: str | None = None,
        frozen_stages: int = 0,
        norm: str = "bn",
    ) -> None:
        super().__init__()
        stages, options = _plan(name)
        reductions = stages.reduction()
        missing = [2**level for level in levels if 2**level not in reductions]
        if missing:
            raise RunError(f"backbone {name} has features at strides {reductions}, none at {missing}")
        # Several stages may share a stride; the last of them holds the richest features.
        places = [*zip(stages.out_indices, reductions, strict=True)]  # some models have a stage that they do not offer
        indices = [max(i for i, reduction in places if reduction == 2**level) for level in levels]
        options["out_indices"] = indices
        if weights is not None:
            body = _create(name, checkpoint_path=_existing(weights), **options)
        else:
            body = _pretrained(name, **options) if pretrained else _create(name, **options)
        for pool in body.modules():
            if isinstance(pool, nn.MaxPool2d) and pool.kernel_size == pool.stride:
                pool.ceil_mode = True  # level n has ⌈H / 2ⁿ⌉ cells, as it has by padded convolutions
        self.channels: list[int] = [*body.feature_info.channels()]
        self._channels_last = getattr(body, "output_fmt", Format.NCHW) == Format.NHWC
        self.body: nn.Module = body
        self._stride = 1  # what the sides of an image must be multiples of
        self._levels = tuple(levels)
        self._try_out(name, max(reductions))
        if norm != "bn":
            _replace_batch_norm(self.body, _frozen if norm == "frozen-bn" else lambda bn: group_norm(bn.num_features))
        self._frozen = _until(self.body, stages.module_name()[frozen_stages]) if frozen_stages else []
        for module in self._frozen:
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, H, W) to features, one (B, C_n, ⌈H / 2**n⌉, ⌈W / 2**n⌉) per level."""
        height, width = images.shape[-2:]
        down, right = -height % self._stride, -width % self._stride
        features = self.body(F.pad(images, (0, right, 0, down)) if down or right else images)
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        if not (down or right):
            return list(features)
        return [
            feature[..., : -(-height >> level), : -(-width >> level)]
            for feature, level in zip(features, self._levels, strict=True)
        ]

    @torch.no_grad()
    def _try_out(self, name: str, coarsest: int) -> None:
        """Refuse a model that sees images of its own size only, or whose cells are not where its strides say.

        Which of the others need sides that their `coarsest` stride divides is seen by an image of odd sides.
        """
        height, width = 128, 160
        self.body.eval()
        try:
            shapes = self._shapes(height, width)
        except Exception as error:  # models check their input in many ways
            raise RunError(
                f"backbone {name} does not take images of any size ({type(error).__name__}: {error}); choose one "
                "without a fixed size, such as a ResNet, ConvNeXt, PVT or Swin"
            ) from error
        if shapes != (expected := self._grids(height, width)):
            raise RunError(
                f"backbone {name} gives features of {shapes} (channels, height, width) for an image of "
                f"{height}×{width} pixels, not {expected}: its cells are not a grid of its strides; choose another"
            )
        try:
            any_side = self._shapes(height - 31, width - 29) == self._grids(height - 31, width - 29)
        except Exception:  # as above
            any_side = False
        self._stride = 1 if any_side else coarsest
        self.body.train()

    def _shapes(self, height: int, width: int) -> list[tuple[int, ...]]:
        return [tuple(feature.shape[1:]) for feature in self(torch.zeros(1, 3, height, width))]

    def _grids(self, height: int, width: int) -> list[tuple[int, ...]]:
        """(C_n, H_n, W_n) of the features that cover an image."""
        levels = zip(self.channels, self._levels, strict=True)
        return [(channels, -(-height >> level), -(-width >> level)) for channels, level in levels]

    def train(self, mode: bool = True) -> "Backbone":
        """Switch to training, except for the frozen stages."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


def _plan(name: str) -> tuple[Any, dict[str, Any]]:
    """Return what timm knows of a model's features, and the options to build it with."""
    options = {"features_only": True}
    with torch.device("meta"):
        try:
            resizable = options | {"strict_img_size": False}  # Swin's, which has a fixed size otherwise
            return _create(name, **resizable).feature_info, resizable
        except TypeError:
            return _create(name, **options).feature_info, options


def _create(name: str, **options: Any) -> Any:
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0]}*")[:5]
        raise RunError(f"timm has no model {name!r}" + (f"; it has {', '.join(close)}" if close else ""))
    try:
        return timm.create_model(name, **options)
    except (RuntimeError, AttributeError) as error:
        raise RunError(f"timm cannot build {name} as a backbone: {error}") from error


def _pretrained(name: str, **options: Any) -> Any:
    """Load timm's weights from its cache or the hub; without a network answer in seconds, not after many retries."""
    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not _hub_reachable()
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # timm and the hub raise many kinds for "cannot reach it"
        raise RunError(
            f"cannot get pretrained weights of {name} ({type(error).__name__}). Give a local file with "
            "--set detector.backbone.weights=FILE, or start from scratch with --set detector.backbone.pretrained=false"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = offline


def _hub_reachable() -> bool:
    """Whether the hub answers; behind a proxy nothing is known, so it is tried."""
    if getproxies():
        return True
    try:
        socket.create_connection((urlparse(constants.ENDPOINT).hostname, 443), timeout=5).close()
    except OSError:
        return False
    return True


def _existing(weights: str) -> str:
    if not Path(weights).is_file():
        raise RunError(f"detector.backbone.weights: there is no file {weights}")
    return weights


def _until(body: nn.Module, stage: str) -> list[nn.Module]:
    """List the modules without children up to the end of a stage; timm registers them in the order they run."""
    leaves = [(name, module) for name, module in body.named_modules() if not list(module.children())]
    # timm writes "stages.1" as the child "stages_1" in some models.
    prefix = stage.replace("_", ".") + "."
    last = max(index for index, (name, _) in enumerate(leaves) if f"{name}.".replace("_", ".").startswith(prefix))
    return [module for _, module in leaves[: last + 1]]


def _replace_batch_norm(module: nn.Module, make: Callable[[nn.BatchNorm2d], nn.Module]) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, make(child))
        else:
            _replace_batch_norm(child, make)


def _frozen(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
    frozen.load_state_dict(norm.state_dict(), strict=False)
    return frozen
