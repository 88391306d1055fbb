"""Evaluation: boxes find their way back to the stored image, and processes share the work."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from boxwright.data.dataset import Sample, collate
from boxwright.data.records import ImageRecord
from boxwright.engine.evaluate import coco_ground_truth, detect, evaluate
from boxwright.structures import Detections

NAMES, IDS = ["cell", "platelet"], [4, 9]


def record(image_id, width=200, height=100):
    boxes = torch.tensor([[10.0, 20, 60, 80], [100, 10, 190, 90]])
    return ImageRecord(
        path=Path(f"{image_id}.png"),
        image_id=image_id,
        width=width,
        height=height,
        boxes=boxes,
        labels=torch.tensor([0, 1]),
        crowd=torch.tensor([False, False]),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(dim=1),
    )


def batches(records, size=2, scale=0.4):
    """What a loader yields: content shrunk into the upper left corner of a padded square."""
    samples = [
        Sample(
            image=torch.zeros(3, round(entry.height * scale), round(entry.width * scale), dtype=torch.uint8),
            boxes=entry.boxes * scale,
            labels=entry.labels,
            crowd=entry.crowd,
            image_id=entry.image_id,
            original_size=(entry.height, entry.width),
        )
        for entry in records
    ]
    return [collate(samples[start : start + size], square=96) for start in range(0, len(samples), size)]


class Oracle(nn.Module):
    """Finds both objects of `record` in every image, and stray ones in the padding beside, below and in the corner."""

    def __init__(self, scale=0.4, miss=()):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.modes, self.dtypes = [], []

    def forward(self, images):
        self.modes.append(self.training)
        self.dtypes.append((images.float().flatten(1) @ images.float().flatten(1).T).dtype)
        boxes = torch.cat(
            [record(0).boxes * self.scale, torch.tensor([[81.0, 9, 95, 30], [9, 41, 30, 95], [81, 60, 95, 95]])]
        )
        count = len(images)
        return Detections(
            boxes=boxes.expand(count, 5, 4),
            scores=torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]).expand(count, 5),
            labels=torch.tensor([0, 1, 0, 1, 0]).expand(count, 5),
            count=torch.full((count,), 5),
        )


def test_boxes_are_mapped_back_and_padding_holds_no_object():
    found = detect(Oracle(), batches([record(3), record(8)]))
    assert sorted(found) == [3, 8]
    torch.testing.assert_close(found[3]["boxes"], record(3).boxes)
    assert found[3]["labels"].tolist() == [0, 1]


def test_perfect_detections_score_one_and_carry_source_ids():
    records = [record(3), record(8), record(21)]
    metrics = evaluate(Oracle(), batches(records), coco_ground_truth(records, NAMES, IDS))
    assert metrics.stats["AP"] == pytest.approx(1)
    assert [(entry.category_id, entry.name, entry.objects) for entry in metrics.per_class] == [
        (4, "cell", 3),
        (9, "platelet", 3),
    ]
    assert metrics.predictions[0] == {
        "image_id": 3, "category_id": 4, "bbox": [10.0, 20.0, 50.0, 60.0], "score": 0.9,
    }  # fmt: skip
    assert metrics.images == 3


def test_an_image_that_was_not_seen_counts_against_the_detector():
    records = [record(3), record(8)]
    metrics = evaluate(Oracle(), batches(records[:1]), coco_ground_truth(records, NAMES, IDS))
    assert metrics.stats["AR100"] == pytest.approx(0.5)


def test_other_class_order_than_the_ground_truth():
    records = [record(3)]
    truth = coco_ground_truth(records, NAMES, IDS)
    assert evaluate(Oracle(), batches(records), truth, category_ids=[9, 4]).stats["AP"] == 0


def test_mode_is_restored_and_precision_is_used():
    detector = Oracle().train()
    detect(detector, batches([record(3)]), precision="bf16-mixed")
    assert detector.modes == [False]
    assert detector.dtypes == [torch.bfloat16]
    assert detector.training


def test_ground_truth_keeps_area_and_crowd():
    entry = record(3)
    entry.crowd[1] = True
    truth = coco_ground_truth([entry], NAMES, IDS)
    assert truth["annotations"][1] == {
        "id": 2, "image_id": 3, "category_id": 9, "bbox": [100.0, 10.0, 90.0, 80.0], "area": 7200.0, "iscrowd": 1,
    }  # fmt: skip
    assert truth["images"] == [{"id": 3, "file_name": "3.png", "width": 200, "height": 100}]


def _process(rank, store, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    records = [record(image_id) for image_id in range(5)]
    share = records[:3] if rank == 0 else records[2:]  # image 2 is seen twice
    metrics = evaluate(Oracle(), batches(share), coco_ground_truth(records, NAMES, IDS))
    torch.save([metrics.to_json(), len(metrics.predictions)], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_get_the_metrics_of_one(tmp_path):
    mp.spawn(_process, (tmp_path / "store", tmp_path), nprocs=2)
    (first, predictions), (second, none) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    records = [record(image_id) for image_id in range(5)]
    alone = evaluate(Oracle(), batches(records), coco_ground_truth(records, NAMES, IDS))
    assert first == second == alone.to_json()
    assert (predictions, none) == (10, 0)
