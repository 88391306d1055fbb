"""Images per second of the tiny recipes on a CPU, as they are and after `detector.fuse()`.

`OMP_NUM_THREADS=2 python benchmarks/inference.py` measures all and writes benchmarks/results/inference.json; names as
arguments measure those and keep the rest of the file. One square image of the recipe's size at a time (320 px, 416 for
YOLOv2), with decoding and suppression; rounds of both forms alternate, the median counts. The networks are untrained
and the score threshold is 0, so that each has as many boxes to suppress as its recipe ever lets through: a trained one
has less to do.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch

from boxwright.models import DenseDetector
from boxwright.recipes import build_detector, load_recipe

RESULTS = Path(__file__).parent / "results" / "inference.json"
SYSTEMS = (
    "retinanet retinanet-ghm retinanet-cb ap-loss alrp rank-sort atss gfl gflv2 nanodet nanodet-plus tood ssd "
    "faster-rcnn yolov2 yolov3"
)
ROUNDS, IMAGES = 15, 3


def build(name: str) -> DenseDetector:
    torch.manual_seed(0)
    recipe = load_recipe(f"{name}-tiny", ["detector.inference.score_threshold=0"])
    detector = build_detector(recipe, ["a", "b", "c"], pretrained=False)
    return detector.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def seconds(detector: DenseDetector, images: torch.Tensor) -> float:
    """Time per image."""
    start = time.perf_counter()
    for image in images.split(1):
        detector(image)
    return (time.perf_counter() - start) / len(images)


def measure(name: str) -> dict[str, float]:
    plain, fused = build(name), build(name).fuse()
    assert isinstance(plain.size, int)  # the tiny recipes see squares
    images = torch.rand(IMAGES, 3, plain.size, plain.size).contiguous(memory_format=torch.channels_last)
    for detector in (plain, fused):
        seconds(detector, images[:1])
    times = [(seconds(plain, images), seconds(fused, images)) for _ in range(ROUNDS)]
    before, after = (statistics.median(column) for column in zip(*times, strict=True))
    return {"images_per_s": round(1 / before, 1), "fused_images_per_s": round(1 / after, 1)}


if __name__ == "__main__":
    # all are measured at one time, or some beside what stands there
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if sys.argv[1:] else {}
    for system in sys.argv[1:] or SYSTEMS.split():
        results[f"{system}-tiny"] = measure(system)
        print(system, results[f"{system}-tiny"], flush=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
