"""Train, evaluate and predict: what turns a recipe and a data set into weights, numbers and pictures."""

from boxwright.extras import needs_extra

with needs_extra("train"):
    from boxwright.engine.load import load
    from boxwright.engine.nonfinite import load_batch
    from boxwright.engine.run import Run
    from boxwright.engine.train import train

__all__ = ["Run", "load", "load_batch", "train"]
