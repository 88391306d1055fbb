import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from boxwright.data.dataset import DetectionDataset
from boxwright.data.loader import build_loader
from boxwright.data.synth import KINDS, SyntheticScenes, Thing, write_synthetic
from boxwright.data.transforms import evaluation_transform
from boxwright.errors import DataError


def test_a_scene_depends_on_seed_and_index_alone():
    scenes, others = SyntheticScenes(50), SyntheticScenes(1000)
    record = scenes[7]
    picture = scenes.draw(record)
    others.draw(others[3])

    assert torch.equal(others.draw(others[7]), picture)
    assert torch.equal(others[7].boxes, record.boxes)
    assert not torch.equal(scenes.draw(scenes[8]), picture)
    assert not torch.equal(SyntheticScenes(50, seed=1).draw(SyntheticScenes(50, seed=1)[7]), picture)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 256, 256)


def test_scenes_are_the_same_from_worker_processes():
    scenes = SyntheticScenes(6, size=64)
    dataset = DetectionDataset(scenes, evaluation_transform(64), read=scenes.draw)

    here, there = (list(build_loader(dataset, 3, workers=workers)) for workers in (0, 2))

    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets.boxes, other.targets.boxes)


def test_classes_are_rare_and_frequent_and_some_scenes_are_empty():
    scenes = SyntheticScenes(400)
    records = list(scenes)
    counts = torch.bincount(torch.cat([record.labels for record in records]), minlength=len(scenes.names))
    areas = torch.cat([record.area for record in records])
    empty = sum(len(record.labels) == 0 for record in records)

    assert counts.argsort(descending=True).tolist() == list(range(len(scenes.names)))
    assert 8 < counts[0] / counts[-1] < 18
    assert 20 < empty < 70
    assert (areas < 32**2).float().mean() > 0.5
    assert (areas > 64**2).float().mean() > 0.05
    assert max(len(record.labels) for record in records) >= 15
    with pytest.raises(IndexError):
        scenes[400]


def test_boxes_are_inside_overlap_and_leave_enough_to_see():
    overlapping = 0
    for record in SyntheticScenes(200, size=200):
        boxes = record.boxes
        assert (boxes >= 0).all()
        assert (boxes <= 200).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 3).all()
        low, high = boxes[:, None, :2].maximum(boxes[:, :2]), boxes[:, None, 2:].minimum(boxes[:, 2:])
        # share of box i under box j, for the boxes j painted later
        hidden = ((high - low).clamp(min=0).prod(2) / record.area[:, None]).triu(1)
        assert (hidden.sum(dim=1) <= 0.5 + 1e-4).all()
        overlapping += int((hidden > 0.1).sum())
    assert overlapping > 100


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_box_is_where_the_object_is_drawn(kind):
    rng = np.random.default_rng(0)
    white = np.full(3, 255.0)
    for _ in range(20):
        x, y = rng.uniform(0, 128, 2)
        thing = Thing(kind, x, y, rng.uniform(6, 50), kind.aspect[0], rng.uniform(0, 7), (white, white))
        canvas = np.zeros((128, 128, 3), np.float32)
        thing.draw(canvas)
        rows, columns = np.nonzero(canvas[..., 0] > 60)
        extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(thing.box(128) - extent).max() <= 1.5


def test_written_scenes_are_a_coco_data_set(tmp_path):
    root = tmp_path / "scenes"
    write_synthetic(root, train=3, val=2, size=96)

    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    scenes = SyntheticScenes(3, 96, seed=0)
    assert [category["name"] for category in content["categories"]] == list(scenes.names)
    for image, record in zip(content["images"], scenes, strict=True):
        stored = pil_to_tensor(Image.open(root / "images" / image["file_name"]))
        assert torch.equal(stored, scenes.draw(record))
        rows = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        assert [row["category_id"] - 1 for row in rows] == record.labels.tolist()
        boxes = torch.tensor([row["bbox"] for row in rows]).reshape(-1, 4)
        assert torch.allclose(boxes[:, :2] + boxes[:, 2:], record.boxes[:, 2:])
    assert len(list((root / "images" / "val").iterdir())) == 2
    with pytest.raises(DataError, match="exists already"):
        write_synthetic(root)
