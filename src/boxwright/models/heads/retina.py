"""RetinaNet's head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boxwright.models.layers import Norm, conv_tower, flatten_level, init_conv, prior_bias, shared_width
from boxwright.structures import Predictions

__all__ = ["RetinaHead"]


class RetinaHead(nn.Module):
    """Two towers of 3×3 convolutions shared by all levels: class logits and box parameters per prior.

    T.-Y. Lin et al., "Focal Loss for Dense Object Detection", 2017, arXiv:1708.02002.

    Args:
        in_channels: channels of each level (all equal).
        num_classes: C, without a background class.
        priors_per_cell: anchors per cell of a level.
        convs: convolutions per tower.
        channels: their width.
        norm: "none" as published, "gn", or "bn" with weights shared by the levels but statistics of all of them.
        prior_probability: score of every class at the start, so that the mass of background does not swamp training.
        variance: whether to predict the logarithm of the variance of every box parameter, for a Gaussian box loss, as
            `extras["log_variance"]` (He et al. 2019, arXiv:1809.08545).
        reg_max: None for four parameters; else the parameters are logits of four distributions over reg_max + 1 bins.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        priors_per_cell: int,
        convs: int = 4,
        channels: int = 256,
        norm: Norm = "none",
        prior_probability: float = 0.01,
        variance: bool = False,
        reg_max: int | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        own = shared_width(in_channels)
        self.class_tower = conv_tower(own, channels, convs, norm)
        self.box_tower = conv_tower(own, channels, convs, norm)
        width = channels if convs else own
        self.class_logits = nn.Conv2d(width, priors_per_cell * num_classes, 3, padding=1)
        self.num_params = 4 if reg_max is None else 4 * (reg_max + 1)
        self.box_params = nn.Conv2d(width, priors_per_cell * self.num_params, 3, padding=1)
        self.variance = variance
        if variance:
            self.log_variance = nn.Conv2d(width, priors_per_cell * 4, 3, padding=1)
        init_conv(self)
        nn.init.constant_(self.class_logits.bias, prior_bias(prior_probability))  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> Predictions:
        """Map features (B, C_in, H_n, W_n), one per level, to predictions for all L priors."""
        logits = [flatten_level(self.class_logits(self.class_tower(f)), self.num_classes) for f in features]
        towers = [self.box_tower(f) for f in features]
        params = [flatten_level(self.box_params(tower), self.num_params) for tower in towers]
        extras = {}
        if self.variance:
            extras["log_variance"] = torch.cat([flatten_level(self.log_variance(tower), 4) for tower in towers], dim=1)
        return Predictions(torch.cat(logits, dim=1), torch.cat(params, dim=1), extras)
