"""Fused kernels, each beside its plain PyTorch reference."""

import torch

from boxwright.kernels.chunked import dense_targets, modulated_row_sums
from boxwright.kernels.modulated import (
    SMALLEST_BASE,
    DistanceModulator,
    FocalModulator,
    Modulator,
    VarifocalModulator,
    modulated_cross_entropy,
)

__all__ = [
    "SMALLEST_BASE",
    "DistanceModulator",
    "FocalModulator",
    "Modulator",
    "VarifocalModulator",
    "dense_targets",
    "modulated_cross_entropy",
    "modulated_row_sums",
]

# On processors with AVX-512, log1p and expm1 (so softplus and every sigmoid cross-entropy) take a constant for entries
# -0.0 by a masked load. As long as nothing has ever read its page, each such load is a suppressed page fault, though it
# be for no entry at all, and they take ten to twenty times as long. One vector of such entries reads the page.
torch.full((64,), -0.0, dtype=torch.float32, device="cpu").log1p()
