"""SSD's levels: the backbone's own features, and coarser ones by convolutions after the last of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from boxwright.models.layers import Norm, conv_norm_act, init_xavier

__all__ = ["ExtraLevels"]


class ExtraLevels(nn.Module):
    """Hand the backbone's features on as they are, and make coarser levels of the last by 1×1 and 3×3 convolutions.

    W. Liu et al., "SSD: Single Shot MultiBox Detector", 2016, arXiv:1512.02325, whose levels of a 300 px image have
    38, 19, 10, 5, 3 and 1 cells a side.

    Args:
        in_channels: channels of the backbone's features, finest first.
        channels: of each further level; its 1×1 convolution has half as many.
        unpadded: how many of the further levels, the last ones, lose a cell at each border instead of halving.
        norm: "none" as published, or "bn" after every convolution (small models from scratch learn faster with it).
        first_scale: where given, the first feature is divided by its length in every cell and multiplied by a learned
            scale per channel that starts here: 20 in SSD, whose first feature is far larger than the others.
        fc_channels: where given, the last feature passes SSD's form of VGG's last layers first: a 3×3 maximum, a 3×3
            convolution dilated by 6 (fc6) and a 1×1 one (fc7), of so many channels.

    Raises:
        ValueError: more levels are unpadded than there are.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: Sequence[int] = (512, 256, 256, 256),
        unpadded: int = 2,
        norm: Norm = "none",
        first_scale: float | None = None,
        fc_channels: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= unpadded <= len(channels):
            raise ValueError(f"unpadded must be 0 to {len(channels)}, the number of further levels, got {unpadded}")
        own = [*in_channels]
        self.first = None if first_scale is None else _LengthNorm(own[0], first_scale)
        self.last = None
        if fc_channels is not None:
            self.last, own[-1] = _fully_connected(own[-1], fc_channels), fc_channels
        self.channels = [*own, *channels]
        padded = len(channels) - unpadded
        self.extra = nn.ModuleList(
            nn.Sequential(
                conv_norm_act(before, after // 2, 1, norm=norm),
                _Unpadded(after // 2, after, norm)
                if index >= padded
                else conv_norm_act(after // 2, after, 3, stride=2, norm=norm),
            )
            for index, (before, after) in enumerate(zip([own[-1], *channels], channels, strict=False))
        )
        init_xavier(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map features (B, C_n, H_n, W_n), finest first, to as many and the further levels."""
        levels = [*features]
        if self.last is not None:
            levels[-1] = self.last(levels[-1])
        coarse = levels[-1]
        for extra in self.extra:
            coarse = extra(coarse)
            levels.append(coarse)
        if self.first is not None:
            levels[0] = self.first(levels[0])
        return levels


def _fully_connected(in_channels: int, channels: int) -> nn.Sequential:
    """VGG's pool5, fc6 and fc7 that keep their resolution (Chen et al. 2015, arXiv:1412.7062)."""
    return nn.Sequential(
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.Conv2d(in_channels, channels, 3, padding=6, dilation=6),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(inplace=True),
    )


class _Unpadded(nn.Sequential):
    """3×3 convolution that sees no border; a map of fewer than 3 cells is padded to 3."""

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        layers = conv_norm_act(in_channels, channels, 3, norm=norm)
        assert isinstance(layers[0], nn.Conv2d)
        layers[0].padding = (0, 0)
        super().__init__(*layers)

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, max(H - 2, 1), max(W - 2, 1))."""
        height, width = (max(3 - side, 0) for side in input.shape[-2:])
        if height or width:
            input = F.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
        output: Tensor = super().forward(input)
        return output


class _LengthNorm(nn.Module):
    """Divide the channels of every cell by their length and multiply them by a learned scale each.

    W. Liu et al., "ParseNet: Looking Wider to See Better", 2015, arXiv:1506.04579.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, feature: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape; the length is summed in float32."""
        unit = F.normalize(feature.float(), dim=1, eps=1e-10).to(feature.dtype)
        return unit * self.scale.view(-1, 1, 1).to(feature.dtype)
