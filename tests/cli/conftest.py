"""A run folder with an untrained detector, and a data set small enough to evaluate in a second."""

import json

import pytest
import torch
from PIL import Image

from boxwright.engine.checkpoint import save_weights
from boxwright.engine.run import Run
from boxwright.recipes import build_detector, dump_recipe, load_recipe

CLASSES = ["cell", "platelet"]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Three images in a COCO file whose category ids are not labels."""
    root = tmp_path_factory.mktemp("data")
    (root / "annotations").mkdir()
    (root / "images").mkdir()
    for split in ("train", "val"):
        images, annotations = [], []
        for number in range(3):
            name = f"{split}{number}.png"
            Image.new("RGB", (90, 60), (40 * number, 80, 120)).save(root / "images" / name)
            images.append({"id": 10 + number, "file_name": name, "width": 90, "height": 60})
            box = {"bbox": [10, 10, 30, 20], "area": 600, "iscrowd": 0, "category_id": 5 + 2 * (number % 2)}
            annotations.append({"id": number + 1, "image_id": 10 + number, **box})
        categories = [{"id": 5, "name": "cell"}, {"id": 7, "name": "platelet"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, data):
    """What a training would leave, without having learned."""
    recipe = load_recipe("retinanet-tiny", ["data.size=64", "data.workers=0", "detector.inference.score_threshold=0"])
    torch.manual_seed(0)
    detector = build_detector(recipe, CLASSES, pretrained=False)
    run = Run.create(tmp_path_factory.mktemp("runs") / "run", recipe, CLASSES, {"path": str(data)})
    save_weights(run.weights_file("last"), detector.state_dict(), {"recipe": dump_recipe(recipe), "classes": CLASSES})
    return run.path
