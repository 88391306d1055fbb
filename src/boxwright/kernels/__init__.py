"""Fused kernels, each beside its plain PyTorch reference."""

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
