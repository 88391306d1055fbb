"""Necks: what lies between the backbone's features and the head."""

from boxwright.models.necks.bare import Bare
from boxwright.models.necks.extra_levels import ExtraLevels
from boxwright.models.necks.fpn import FPN
from boxwright.models.necks.ghost_pan import GhostPAN
from boxwright.models.necks.pan import PAN

__all__ = ["FPN", "PAN", "Bare", "ExtraLevels", "GhostPAN"]
