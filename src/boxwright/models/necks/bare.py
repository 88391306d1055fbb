"""No neck."""

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["Bare"]


class Bare(nn.Module):
    """The backbone's features as they are, for heads that look at one level.

    Args:
        in_channels: channels of the backbone's features, finest first.
    """

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(in_channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return the features."""
        return features
