"""Open a COCO file of 100,000 images and 1,000,000 boxes: first and second time, and the memory of four loader workers.

    python benchmarks/data_index.py            # writes benchmarks/results/data_index.json

Memory is the proportional set size (PSS) of the worker processes, in which a shared page counts once. The workers'
own cost (interpreter, libraries, queues) is what the same loader takes over a data set without an index.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from boxwright.data import open_dataset

WORKERS = 4
warnings.filterwarnings("ignore", message="This DataLoader will create")


def write_coco(file: Path, images: int, boxes: int) -> None:
    draw = np.random.default_rng(0)
    owner = draw.integers(0, images, boxes).tolist()
    corner, size = draw.uniform(0, 400, (boxes, 2)), draw.uniform(1, 80, (boxes, 2))
    bbox = np.concatenate([corner, size], 1).round(2).tolist()
    category = draw.integers(1, 81, boxes).tolist()
    content = {
        "images": [{"id": i, "file_name": f"{i:012}.jpg", "width": 640, "height": 480} for i in range(images)],
        "annotations": [
            {"id": i, "image_id": owner[i], "category_id": category[i], "bbox": bbox[i], "area": 1.0, "iscrowd": 0}
            for i in range(boxes)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)],
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    for image in content["images"][:1000]:  # of the pictures only the names matter, but some must be there
        (file.parent / image["file_name"]).touch()


class Reads(Dataset):
    """Reads every record, or with `records=None` hands out what is nearly nothing."""

    def __init__(self, records, length):
        self.records, self.length = records, length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return 0 if self.records is None else len(self.records[i].labels)


def pss(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    return 1024 * int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])


def worker_memory(dataset: Reads, start: str) -> int:
    """Return the PSS of all workers, measured when they have read the whole data set."""
    loader = DataLoader(
        dataset, batch_size=100, num_workers=WORKERS, multiprocessing_context=start, persistent_workers=True
    )
    batches = iter(loader)
    total = sum(int(batch.sum()) for batch in batches)
    memory = sum(pss(worker.pid) for worker in batches._workers)
    assert dataset.records is None or total > 0
    return memory


def open_once(file: Path) -> float:
    """Open in a fresh process up to the first record, and return the seconds without imports."""
    code = (
        "import sys, time; from boxwright.data import open_dataset\n"
        "start = time.perf_counter()\n"
        "index = open_dataset(sys.argv[1]); records = index.split('train'); records[len(records) // 2]\n"
        "print(time.perf_counter() - start)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(file)], check=True, capture_output=True, text=True).stdout
    return round(float(out), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--boxes", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "data_index.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BOXWRIGHT_CACHE"] = str(Path(folder) / "cache")
        file = Path(folder) / "instances_train.json"
        write_coco(file, arguments.images, arguments.boxes)
        first = open_once(file)
        again = [open_once(file) for _ in range(5)]
        records = open_dataset(file).split("train")
        (cached,) = Path(folder).rglob("*.arrow")
        result = {
            "images": arguments.images,
            "boxes": arguments.boxes,
            "annotation file MiB": round(file.stat().st_size / 2**20, 1),
            "cache file MiB": round(cached.stat().st_size / 2**20, 1),
            "first opening s": first,
            "second opening s": sorted(again)[len(again) // 2],
            "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}",
        }
        for start in ("fork", "spawn"):
            bare = worker_memory(Reads(None, len(records)), start)
            reading = worker_memory(Reads(records, len(records)), start)
            result[f"MiB added by {WORKERS} workers ({start})"] = round((reading - bare) / 2**20, 1)
        began = time.perf_counter()
        count = sum(len(records[i].labels) for i in range(0, len(records), 10))
        per_record = (time.perf_counter() - began) / (len(records) / 10)
        result["microseconds per record"] = round(1e6 * per_record, 1)
        assert count > 0
    text = json.dumps(result, indent=2)
    arguments.output.parent.mkdir(exist_ok=True)
    arguments.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
