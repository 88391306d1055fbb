"""Run folders as a training leaves them, with detections that are drawn instead of learned."""

import json

import numpy as np

from boxwright.engine import Run
from boxwright.files import write_text
from boxwright.recipes import load_recipe

EPOCHS = 8


def detections(truth, quality, seed):
    """Draw detections of the objects of a COCO file; quality from 0 to 1 says how many, how near, how sure.

    What an image does to everybody is drawn from its id, what a seed changes from the seed.
    """
    rng = np.random.default_rng((7, seed))
    quality = quality + 0.02 * rng.standard_normal()
    classes = [category["id"] for category in truth["categories"]]
    found = []
    for entry in truth["annotations"]:
        hard = np.random.default_rng((entry["image_id"], entry["id"])).random()
        if rng.random() > 0.25 + quality - 0.3 * hard:
            continue
        x, y, width, height = entry["bbox"]
        near = (0.02 + 0.25 * (1 - quality) * hard) * np.array([width, height, width, height])
        box = np.array([x, y, width, height]) + near * rng.standard_normal(4)
        label = entry["category_id"] if rng.random() < 0.93 else int(rng.choice(classes))
        found.append(_result(entry["image_id"], label, box, np.clip(quality + 0.2 * rng.standard_normal(), 0.06, 0.99)))
        if rng.random() < 0.1:
            found.append(_result(entry["image_id"], label, box + 1, 0.3 * rng.random() + 0.06))
    for image in truth["images"]:
        for _ in range(rng.poisson(2 * (1 - quality))):
            corner, side = rng.uniform(0, 0.7, 2) * image["width"], rng.uniform(0.1, 0.3, 2) * image["width"]
            found.append(_result(image["id"], int(rng.choice(classes)), [*corner, *side], 0.06 + 0.5 * rng.random()))
    return sorted(found, key=lambda entry: entry["image_id"])


def write_run(path, data, truth, *, recipe="retinanet-tiny", quality=0.5, seed=0, seconds=0.2):
    """Write the folder of a finished run on a data set whose validation images are those of `truth`."""
    rng = np.random.default_rng(seed)
    classes = [category["name"] for category in truth["categories"]]
    resolved = load_recipe(recipe, [f"train.seed={seed}", f"schedule.epochs={EPOCHS}"])
    run = Run.create(path, resolved, classes, {"path": str(data)})
    lines = []
    for epoch in range(1, EPOCHS + 1):
        step = 10 * epoch
        terms = {name: 2 / (1 + epoch * quality) + 0.05 * rng.random() for name in ("classification", "box")}
        speed = resolved.data.batch_size / seconds * rng.uniform(0.9, 1.1)
        train = {"loss": sum(terms.values()), **terms, "lr": 0.001, "images_per_s": speed, "skipped_steps": 0}
        lines.append({"kind": "train", "step": step, "epoch": epoch, **train})
        score = quality * (1 - 0.7**epoch) + 0.01 * rng.standard_normal()
        lines.append({"kind": "eval", "step": step, "epoch": epoch, "AP": score / 2, "AP50": score, "AP75": score / 3})
    write_text(path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_text(path / "predictions.json", json.dumps(detections(truth, quality, seed)))
    cost = {"seconds_per_step": seconds, "peak_memory": 900_000_000 + 1_000_000 * seed, "memory": "process"}
    write_text(path / "cost.json", json.dumps(cost))
    return run


def _result(image_id, category_id, box, score):
    sides = [float(value) for value in np.maximum(box, [-1e9, -1e9, 1, 1])]
    return {"image_id": image_id, "category_id": category_id, "bbox": sides, "score": float(score)}
