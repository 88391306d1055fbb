"""The whole tool in a few minutes: draw scenes, train on them, look at the result."""

from pathlib import Path
from typing import NamedTuple

from boxwright.data.synth import write_synthetic
from boxwright.engine.load import load
from boxwright.engine.predict import predict_files
from boxwright.engine.run import Run
from boxwright.engine.train import train
from boxwright.errors import RunError

__all__ = ["Demo", "run_demo"]

SCENES = {"train": 1000, "val": 100, "size": 192}
# Scenes are free, so many of them, few epochs and little augmentation; most objects are small, and so are the anchors.
CHANGES = (
    "data.size=192",
    "data.workers=1",
    "detector.priors.octave_base=2",
    "data.augment.scale_jitter=null",
    "data.augment.photometric=0.0",
    "schedule.epochs=6",
    "train.eval_every=6",
)


class Demo(NamedTuple):
    """What a demonstration leaves behind."""

    run: Run
    pictures: Path


def run_demo(output: Path) -> Demo:
    """Train `retinanet-tiny` on synthetic scenes and draw what it finds in scenes that it has not seen.

    Args:
        output: a new folder for the scenes, the run and the pictures.

    Raises:
        RunError: the folder holds something already.
    """
    if output.exists() and any(output.iterdir()):
        raise RunError(f"{output} is not empty; name another folder with --output")
    scenes, pictures = output / "scenes", output / "pictures"
    write_synthetic(scenes, **SCENES)
    run = train("retinanet-tiny", scenes, overrides=CHANGES, output=output / "run")
    predict_files(load(run.path), [*sorted((scenes / "images" / "val").iterdir())[:12]], pictures)
    return Demo(run, pictures)
