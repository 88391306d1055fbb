"""The random scenes of `boxwright.testing`, for hypothesis."""

from hypothesis import strategies as st

from boxwright.testing import Scene, random_scene
from boxwright.testing import random_predictions as make_predictions
from boxwright.testing import random_priors as make_priors
from boxwright.testing import random_targets as make_targets
from boxwright.testing.scenes import CLASSES

__all__ = ["CLASSES", "make_predictions", "make_priors", "make_targets", "scenes"]


def scenes(*, hostile: bool = True, crowd: bool = True) -> st.SearchStrategy[Scene]:
    """Priors, targets and predictions of one to three images with up to seven objects."""
    return st.integers(0, 10**6).map(lambda seed: random_scene(seed, hostile=hostile, crowd=crowd))
