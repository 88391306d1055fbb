"""boxwright's RetinaNet beside torchvision's own: same backbone, pyramid, head, anchors, images, batches, schedule.

    python benchmarks/torchvision_retinanet.py --data ../shared/data/bccd --epochs 12 --seeds 3

Both networks go through the same engine, loader and augmentation; torchvision's keeps its own matcher, losses (focal
and L1), loss normalisation and postprocessing. Prints AP per seed, the ratio of step times (interleaved in one process)
and the peak resident memory of a process that takes ten steps, and writes them to benchmarks/results/.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from boxwright.engine.device import resolve_precision
from boxwright.engine.train import train
from boxwright.models.images import MEAN, STD, to_float
from boxwright.models.layers import group_norm
from boxwright.recipes import Recipe, build_detector, load_recipe
from boxwright.structures import Detections, Targets

RESULTS = Path(__file__).parent / "results" / "torchvision_retinanet.json"
# torchvision's head has four convolutions per tower, so ours gets as many.
OVERRIDES = ["detector.head.convs=4", "train.eval_every=1000"]


class Pyramid(nn.Module):
    """Our backbone and neck in the form that torchvision's RetinaNet takes."""

    def __init__(self, backbone: nn.Module, neck: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck, self.out_channels = backbone, neck, neck.channels[0]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(level), feature) for level, feature in enumerate(self.neck(self.backbone(images))))


class TorchvisionDetector(nn.Module):
    """torchvision's RetinaNet behind our detector's interface."""

    def __init__(self, recipe: Recipe, class_names: list[str], **options: Any) -> None:
        super().__init__()
        ours = build_detector(recipe, class_names, **options)
        sizes = tuple((int(4 * s), int(4 * s * 2**0.5)) for s in ours.priors.strides)
        anchors = AnchorGenerator(sizes, ((1.0,),) * len(sizes))
        width = ours.neck.channels[0]
        head = RetinaNetHead(width, anchors.num_anchors_per_location()[0], len(class_names), norm_layer=group_norm)
        inference = recipe.detector.inference
        self.class_names = class_names
        self.model = RetinaNet(
            Pyramid(ours.backbone, ours.neck),
            len(class_names),
            anchor_generator=anchors,
            head=head,
            image_mean=MEAN,
            image_std=STD,
            score_thresh=inference.score_threshold,
            nms_thresh=inference.iou_threshold,
            detections_per_img=inference.max_detections,
            topk_candidates=inference.pre_nms,
            # images arrive letterboxed: no resizing, neither in training nor in evaluation
            min_size=recipe.data.size,
            max_size=recipe.data.size,
            _skip_resize=True,
        )

    def forward(self, images: Tensor, targets: Targets | None = None) -> dict[str, Tensor] | Detections:
        pixels = list(to_float(images))
        if self.training:
            return self.model(pixels, targets.to_list())
        with torch.autocast("cpu", enabled=False):  # it would decode its boxes in half precision
            return padded(self.model(pixels))


def padded(outputs: list[dict[str, Tensor]]) -> Detections:
    """Stack torchvision's list into our padded batch."""
    most = max(len(output["scores"]) for output in outputs)
    grow = partial(nn.functional.pad, value=0)
    return Detections(
        torch.stack([grow(o["boxes"], (0, 0, 0, most - len(o["boxes"]))) for o in outputs]),
        torch.stack([grow(o["scores"], (0, most - len(o["scores"]))) for o in outputs]),
        torch.stack([grow(o["labels"], (0, most - len(o["labels"]))) for o in outputs]),
        torch.tensor([len(o["scores"]) for o in outputs]),
    )


DETECTORS = {"boxwright": build_detector, "torchvision": TorchvisionDetector}


def accuracy(name: str, data: Path, epochs: int, seed: int) -> dict[str, float]:
    """Train and return the validation AP and AP50."""
    overrides = [*OVERRIDES, f"schedule.epochs={epochs}", f"train.seed={seed}"]
    with tempfile.TemporaryDirectory() as folder, patch("boxwright.engine.train.build_detector", DETECTORS[name]):
        start = time.monotonic()
        run = train("retinanet-tiny", data, overrides=overrides, output=Path(folder) / "run", quiet=True)
        rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "AP" in row][-1]
    return {"seed": seed, "AP": last["AP"], "AP50": last["AP50"], "seconds": round(time.monotonic() - start)}


def make_step(name: str):
    """Return a function that takes one training step on fixed random scenes."""
    torch.manual_seed(0)
    recipe = load_recipe("retinanet-tiny", OVERRIDES)
    detector = DETECTORS[name](recipe, ["a", "b", "c"], pretrained=False).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(detector.parameters())
    images = torch.randint(0, 256, (recipe.data.batch_size, 3, 320, 320), dtype=torch.uint8)
    corners = torch.rand(recipe.data.batch_size, 14, 2) * 240
    sizes = torch.rand(recipe.data.batch_size, 14, 2) * 60 + 16
    targets = Targets.from_list(
        [
            {"boxes": torch.cat([xy, xy + wh], dim=1), "labels": torch.randint(0, 3, (14,))}
            for xy, wh in zip(corners, sizes, strict=True)
        ]
    )

    bf16 = resolve_precision(recipe.train.precision, "cpu") == "bf16-mixed"  # as the engine chooses on this machine

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = sum(detector(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def peak_memory(name: str, queue: multiprocessing.Queue) -> None:
    """Put the resident MiB that ten steps add at their peak to a process that has built the detector."""
    torch.set_num_threads(2)
    step = make_step(name)
    before = resident("VmRSS")
    for _ in range(10):
        step()
    queue.put(resident("VmHWM") - before)


def resident(field: str) -> float:
    """Resident set of this process in MiB, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(2)

    steps = {name: make_step(name) for name in DETECTORS}
    times = [{name: step() for name, step in steps.items()} for _ in range(15)][3:]
    ratio = statistics.median(row["boxwright"] / row["torchvision"] for row in times)
    del steps
    result = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "command": f"python benchmarks/torchvision_retinanet.py --epochs {arguments.epochs} --seeds {arguments.seeds}",
        "step_ms": {name: round(1000 * statistics.median(row[name] for row in times), 1) for name in DETECTORS},
        "step_ratio": round(ratio, 3),
        "peak_MiB": {},
        "accuracy": {name: [] for name in DETECTORS},
    }
    context = multiprocessing.get_context("spawn")
    for name in DETECTORS:
        queue = context.Queue()
        process = context.Process(target=peak_memory, args=(name, queue))
        process.start()
        result["peak_MiB"][name] = round(queue.get(), 1)
        process.join()
    print(json.dumps(result, indent=2), flush=True)
    for seed in range(arguments.seeds):
        for name in DETECTORS:
            result["accuracy"][name].append(accuracy(name, arguments.data, arguments.epochs, seed))
            print(name, result["accuracy"][name][-1], flush=True)
    result["mean_AP"] = {
        name: round(statistics.mean(row["AP"] for row in rows), 4) for name, rows in result["accuracy"].items()
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
