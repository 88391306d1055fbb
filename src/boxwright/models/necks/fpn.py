"""Feature pyramid network."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from boxwright.models.layers import conv_norm_act, init_xavier

__all__ = ["FPN"]


class FPN(nn.Module):
    """Feature pyramid: lateral 1×1 convolutions, a top-down path, a 3×3 convolution per level, coarser extra levels.

    T.-Y. Lin et al., "Feature Pyramid Networks for Object Detection", 2017, arXiv:1612.03144; the extra levels as in
    RetinaNet, T.-Y. Lin et al., 2017, arXiv:1708.02002.

    Args:
        in_channels: channels of the backbone's features, finest first.
        channels: channels of every output level.
        extra_levels: further levels, each by a 3×3 convolution of stride 2 with a ReLU between them.
        extra_from: "c5", the backbone's coarsest feature, or "p5", the pyramid's, feeds the first extra level; "pool":
            no convolutions, every other cell of the pyramid's coarsest level, as in Faster R-CNN with FPN.
        norm: "none" as published, or "bn" after every convolution (small models from scratch learn faster with it).
        upsampling: how a coarse level is enlarged before it is added to the finer one.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        extra_levels: int = 2,
        extra_from: Literal["c5", "p5", "pool"] = "c5",
        norm: Literal["none", "bn"] = "none",
        upsampling: Literal["nearest", "bilinear"] = "nearest",
    ) -> None:
        super().__init__()
        self.extra_from = extra_from
        self.upsampling = upsampling
        self.lateral = nn.ModuleList(conv_norm_act(c, channels, 1, norm=norm, act=False) for c in in_channels)
        self.output = nn.ModuleList(conv_norm_act(channels, channels, 3, norm=norm, act=False) for _ in in_channels)
        first = in_channels[-1] if extra_from == "c5" else channels
        self.extra = nn.ModuleList(
            conv_norm_act(channels if index else first, channels, 3, stride=2, norm=norm, act=False)
            for index in range(extra_levels * (extra_from != "pool"))
        )
        self.pools = extra_levels if extra_from == "pool" else 0
        self.channels = [channels] * (len(in_channels) + extra_levels)
        if norm == "none":  # what a norm would make up for
            init_xavier(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map features (B, C_n, H_n, W_n), finest first, to as many plus `extra_levels`, all with `channels`."""
        merged = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for fine in range(len(merged) - 2, -1, -1):
            size = merged[fine].shape[-2:]
            merged[fine] = merged[fine] + F.interpolate(merged[fine + 1], size=size, mode=self.upsampling)
        outputs = [output(feature) for output, feature in zip(self.output, merged, strict=True)]
        coarse = features[-1] if self.extra_from == "c5" else outputs[-1]
        for index, extra in enumerate(self.extra):
            coarse = extra(F.relu(coarse) if index else coarse)
            outputs.append(coarse)
        outputs += [outputs[-1][..., :: 2**n, :: 2**n] for n in range(1, self.pools + 1)]
        return outputs
