"""Where the bins of a side's distribution lie."""

import torch
from torch import Tensor

__all__ = ["weighting_function"]


def weighting_function(
    bins: int,
    up: float = 0.5,
    scale: float = 4.0,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Tensor:
    """Values (bins + 1,) of D-FINE's bins: 0 in the middle, steps that grow geometrically, ± 2 up scale at the ends.

    Args:
        bins: K, the largest index, even and at least 4.
        up: largest offset as a share of the box's size.
        scale: divides the box's size to give the unit of the values.
        dtype: of the values.
        device: of the values.

    Raises:
        ValueError: bins is odd or below 4.
    """
    if bins < 4 or bins % 2:
        raise ValueError(f"bins must be even and at least 4, so that one bin is in the middle, got {bins}")
    middle = bins // 2
    step = (up * scale + 1) ** (2 / (bins - 2))
    offset = torch.arange(-middle, middle + 1, dtype=dtype, device=device)
    size = torch.where(offset.abs() == middle, 2 * up * scale, step ** offset.abs() - 1)
    return offset.sign() * size
