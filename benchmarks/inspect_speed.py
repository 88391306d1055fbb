"""How long `boxwright inspect` takes for the annotations of many images: no image is read.

python benchmarks/inspect_speed.py --images 10000
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from boxwright.data.coco import coco_content
from boxwright.data.index import open_dataset
from boxwright.data.synth import KINDS, SyntheticScenes
from boxwright.recipes import load_recipe
from boxwright.study import inspect_data, inspect_page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--recipe", default="retinanet-tiny")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instances_train.json"
        scenes = SyntheticScenes(arguments.images, size=320)
        named = ((str(record.path), record) for record in scenes)
        file.write_text(json.dumps(coco_content(named, scenes.names, range(1, len(KINDS) + 1))))
        start = time.perf_counter()
        index = open_dataset(folder, splits={"train": str(file), "val": str(file)}, cache=False)
        opened = time.perf_counter()
        report = inspect_data(index, load_recipe(arguments.recipe), show=0)
        done = time.perf_counter()
        page = inspect_page(report)
    steps = sum(len(assigner["steps"]) for assigner in report["assigners"])
    print(
        f"{report['data']['images']:,} images, {report['data']['objects']:,} objects, {steps} settings of "
        f"{len(report['assigners'])} assigners, {torch.get_num_threads()} threads"
    )
    print(f"annotations read in {opened - start:.1f} s, inspected in {done - opened:.1f} s")
    print(f"page of {len(page) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
