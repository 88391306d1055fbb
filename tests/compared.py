"""Minute comparisons: synthetic scenes, recipes small enough for a test, an engine that needs no other process."""

import functools

from boxwright.data.index import open_dataset
from boxwright.recipes import dump_recipe
from boxwright.study.comparison.contestants import contestants, with_seed
from boxwright.study.comparison.runs import RunSpec, run_one

CHANGES = ["data.size=64", "data.batch_size=8", "data.workers=0", "schedule.warmup_steps=2", "train.precision=32-true"]


def specs(scenes, folder, recipes=("retinanet-tiny", "gfl-tiny"), seeds=(0,), epochs=1, changes=()):
    """The runs of a comparison on `scenes`, in the order in which they are done."""
    print_ = open_dataset(scenes).fingerprint("train", "val")
    entrants = contestants(recipes, [*CHANGES, f"schedule.epochs={epochs}", *changes])
    return [
        RunSpec(own.name, seed, dump_recipe(with_seed(own.recipe, seed)), {"path": str(scenes)}, print_, str(folder), 1)
        for seed in seeds
        for own in entrants
    ]


class Here:
    """A run in this process, done as soon as it is asked for."""

    def __init__(self, spec):
        self.result = functools.cache(functools.partial(run_one, spec))

    def done(self):
        return True

    def cancel(self):
        pass
