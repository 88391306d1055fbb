"""Time and memory of the assigners beside the published per-image algorithms, with exponents in objects and priors.

    python benchmarks/assigners.py             # writes benchmarks/results/assigners.json
    python benchmarks/assigners.py --only atss --rounds 3
    python benchmarks/assigners.py --device cuda --out gpu.json

Peers are our own transcription of the published dense algorithms (tests/dense_assigners.py, float32, one image at a
time) and, for max-IoU, torchvision's box_iou with its Matcher. Ours and the peer take turns in one process; a time is
the smallest of the rounds, on one thread and in processor time unless --wall, so that a busy machine disturbs it less.
Memory is the allocator's high water above the start of a call, for the whole batch of ours and per image of the peer.

On CUDA a row holds the wall time of a batch called from Python and of the same call captured in a graph, the kernels
that were launched (copies counted), and the peak of memory, each after warming up.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.profiler import ProfilerActivity, profile
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import dense_assigners
from boxwright.assigners import (
    ATSSAssigner,
    DynamicSoftLabelAssigner,
    MaxIoUAssigner,
    SimOTAAssigner,
    TaskAlignedAssigner,
)
from boxwright.boxes import AnchorGenerator, PointGenerator
from boxwright.structures import Predictions, Priors, Targets

CLASSES = 80
OURS = {
    "max_iou": MaxIoUAssigner(),
    "atss": ATSSAssigner(),
    "task_aligned": TaskAlignedAssigner(),
    "simota": SimOTAAssigner(),
    "dynamic_soft_label": DynamicSoftLabelAssigner(),
}
STRIDES = (8, 16, 32, 64, 128)


def cells(height: int, width: int, strides: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(math.ceil(height / s), math.ceil(width / s)) for s in strides]


def square_priors(name: str, side: int = 640) -> Priors:
    strides = (8, 16, 32)
    generator = AnchorGenerator.square(strides) if name == "atss" else PointGenerator(strides)
    return generator(cells(side, side, strides))


def retina_priors() -> Priors:
    return AnchorGenerator.retinanet(STRIDES)(cells(800, 1333, STRIDES))  # 200,700 anchors, 9 per cell


def make_targets(counts: list[int], height: int, width: int) -> Targets:
    """Boxes of COCO-like sizes: log-normal sides around 70 pixels."""
    images = []
    for count in counts:
        center = torch.rand(count, 2) * torch.tensor([width, height])
        half = torch.exp(torch.randn(count, 2) * 0.9 + 4.25) / 2
        limit = torch.tensor([width, height, width, height])
        boxes = torch.cat([center - half, center + half], 1).clamp(min=0).minimum(limit)
        images.append({"boxes": boxes, "labels": torch.randint(0, CLASSES, (count,))})
    return Targets.from_list(images)


def make_predictions(priors: Priors, targets: Targets) -> Predictions:
    """A half-trained head: at most priors some box near the prior, in an object a box near the object."""
    shape = (len(targets), len(priors))
    jitter = torch.randn(*shape, 4) * priors.strides[:, None]
    boxes = priors.centers.repeat(1, 2) + jitter + torch.tensor([-1, -1, 1, 1]) * priors.strides[:, None] * 2
    near = dense_assigners.per_image("max_iou", priors, targets)
    inside = (near.gt_index >= 0).unsqueeze(-1)
    boxes = torch.where(inside, near.boxes(targets) + jitter, boxes)
    return Predictions(torch.randn(*shape, CLASSES) - 3, torch.empty(0), {"objectness": torch.randn(*shape, 1)}, boxes)


def peak(function: Callable[[], object]) -> float:
    """High water of the CPU allocator above the start, MiB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        function()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    level = high = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        high = max(high, level)
    return high / 2**20


def alternate(functions: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Smallest time of each in milliseconds, the functions taking turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            function()
            times[name].append((clock() - start) * 1e3)
    return {name: min(values) for name, values in times.items()}


def on_cuda(function: Callable[[], object], rounds: int) -> dict[str, float]:
    """Milliseconds per call, kernels and copies, and MiB above the start."""

    def call() -> None:
        function()
        torch.cuda.synchronize()

    call()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    high = torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as record:
        call()
    events = record.profiler.kineto_results.events()
    kernels = sum(event.device_type() == torch.autograd.DeviceType.CUDA for event in events)
    time_ms = alternate({"call": call}, rounds, time.perf_counter)["call"]
    return {"ms/batch": round(time_ms, 3), "kernels": kernels, "MiB": round(high / 2**20, 1)}


def captured(function: Callable[[], object], rounds: int) -> float:
    """Milliseconds per replay of a CUDA graph of the call."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    replay()
    return round(alternate({"replay": replay}, rounds, time.perf_counter)["replay"], 3)


def compare_on_cuda(name: str, priors: Priors, targets: Targets, options: argparse.Namespace) -> dict[str, Any]:
    """As `compare`, with our call forbidden to wait for the device."""
    seen = None if name in ("max_iou", "atss") else make_predictions(priors, targets).to("cuda")
    priors, targets = priors.to("cuda"), targets.to("cuda")

    def ours() -> None:
        torch.cuda.set_sync_debug_mode("error")
        OURS[name](priors, targets, seen)
        torch.cuda.set_sync_debug_mode("default")

    def published() -> None:
        dense_assigners.per_image(name, priors, targets, seen)

    row = on_cuda(ours, 20 * options.rounds) | {"ms/batch as a graph": captured(ours, 20 * options.rounds)}
    return {"ours": row, "published": on_cuda(published, min(options.rounds, 3))}


def torchvision_matcher(priors: Priors, targets: Targets) -> None:
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    for image in range(len(targets)):
        matcher(box_iou(targets.boxes[image][targets.valid[image]], priors.boxes))


def compare(name: str, priors: Priors, targets: Targets, options: argparse.Namespace) -> dict[str, Any]:
    seen = None if name in ("max_iou", "atss") else make_predictions(priors, targets)
    functions: dict[str, Callable[[], object]] = {
        "ours": lambda: OURS[name](priors, targets, seen),
        "published": lambda: dense_assigners.per_image(name, priors, targets, seen),
    }
    if name == "max_iou":
        functions["torchvision"] = lambda: torchvision_matcher(priors, targets)
    times = alternate(functions, options.rounds, options.clock)
    row: dict[str, Any] = {f"{who} ms/image": round(ms / len(targets), 3) for who, ms in times.items()}
    row["ratio"] = round(times["ours"] / times["published"], 4)
    row["ours MiB"] = round(peak(functions["ours"]), 1)
    row["published MiB"] = round(peak(functions["published"]), 1)
    return row


def crowds(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time and memory of ours where the published algorithms need tens of gigabytes."""
    rows = {}
    for title, images, objects in (("5,000 objects in one image", 1, 5000), ("128 images, 75,008 objects", 128, 586)):
        for name in ("atss", "task_aligned"):
            if options.only not in f"{name}, {title}":
                continue
            torch.manual_seed(0)
            priors, targets = square_priors(name), make_targets([objects] * images, 640, 640)
            noise = torch.randn(images, len(priors), 4) * priors.strides[:, None]
            seen = Predictions(torch.randn(images, len(priors), CLASSES), noise, boxes=priors.boxes + noise)
            priors, targets, seen = (part.to(options.device) for part in (priors, targets, seen))

            def call(name: str = name, priors: Priors = priors, targets: Targets = targets, seen: Any = seen) -> None:
                OURS[name](priors, targets, seen)

            if options.device == "cuda":
                rows[f"{name}, {title}"] = on_cuda(call, options.rounds)
            else:
                time_ms = alternate({"call": call}, options.rounds, options.clock)["call"]
                rows[f"{name}, {title}"] = {"ms/batch": round(time_ms, 1), "MiB": round(peak(call), 1)}
            print(name, title, rows[f"{name}, {title}"], flush=True)
    return rows


def exponent(points: list[tuple[float, float]]) -> float:
    """Slope of the least-squares line through the logarithms."""
    x, y = torch.tensor(points).log().unbind(1)
    x, y = x - x.mean(), y - y.mean()
    return round(float((x * y).sum() / x.square().sum()), 2)


def growth(name: str, options: argparse.Namespace) -> dict[str, float]:
    def measure(priors: Priors, count: int, side: int) -> float:
        targets = make_targets([count], side, side)
        seen = None if name in ("max_iou", "atss") else make_predictions(priors, targets)
        run = {"ours": lambda: OURS[name](priors, targets, seen)}
        return alternate(run, options.rounds, options.clock)["ours"]

    objects = [(float(n), measure(square_priors(name), n, 640)) for n in (5, 20, 60, 200)]
    sides = [(side, square_priors(name, side)) for side in (320, 640, 1280)]
    priors = [(float(len(p)), measure(p, 20, side)) for side, p in sides]
    return {"time ~ objects^": exponent(objects), "time ~ priors^": exponent(priors)}


def workloads(cuda: bool) -> dict[str, tuple[str, Callable[[], tuple[Priors, Targets]]]]:
    few = torch.randint(1, 61, (16,), generator=torch.Generator().manual_seed(0)).tolist()
    table: dict[str, tuple[str, Callable[[], tuple[Priors, Targets]]]] = {}
    for name in ("atss", "task_aligned", "simota", "dynamic_soft_label"):
        images = 16 if cuda or name in ("atss", "task_aligned") else 2
        table[f"{name}, {images} images, 8,400 priors, 1-60 objects"] = (
            name,
            lambda name=name, images=images: (square_priors(name), make_targets(few[:images], 640, 640)),
        )
        table[f"{name}, 8,400 priors, 300 objects"] = (
            name,
            lambda name=name: (square_priors(name), make_targets([300], 640, 640)),
        )
        if cuda:
            table[f"{name}, 16 images, 8,400 priors, 30 objects"] = (
                name,
                lambda name=name: (square_priors(name), make_targets([30] * 16, 640, 640)),
            )
    table["atss, 200,700 priors (9 per cell), 60 objects"] = (
        "atss",
        lambda: (retina_priors(), make_targets([60], 800, 1333)),
    )
    for count in (7, 60, 300):
        table[f"max_iou, 200,700 anchors, {count} objects"] = (
            "max_iou",
            lambda count=count: (retina_priors(), make_targets([count], 800, 1333)),
        )
    return table


def processor() -> str:
    """Name of the processor where the system tells it."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in about if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="workloads whose name holds this text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="wall clock instead of processor time")
    parser.add_argument("--no-growth", action="store_true", help="leave out the exponents")
    parser.add_argument("--only-growth", action="store_true", help="measure the exponents alone")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "assigners.json")
    options = parser.parse_args()
    options.clock = time.perf_counter if options.wall else time.process_time
    torch.set_num_threads(options.threads)
    dense_assigners.EXACT_TIES = False
    cuda = options.device == "cuda"
    results: dict[str, dict[str, Any]] = {}
    for title, (name, scene) in workloads(cuda).items():
        if options.only in title and not options.only_growth:
            torch.manual_seed(0)
            results[title] = (compare_on_cuda if cuda else compare)(name, *scene(), options)
            print(title, results[title], flush=True)
    results |= {} if options.only_growth else crowds(options)
    exponents = {}
    for name in () if options.no_growth or cuda else OURS:
        if options.only in name:
            exponents[name] = growth(name, options)
            print(name, exponents[name], flush=True)
    about = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "machine": torch.cuda.get_device_name() if cuda else processor(),
        "threads": options.threads,
        "clock": "wall" if options.wall or cuda else "processor",
    }
    options.out.parent.mkdir(exist_ok=True)
    known = json.loads(options.out.read_text()) if options.out.exists() else {"workloads": {}, "exponents": {}}
    merged = {"workloads": known["workloads"] | results, "exponents": known["exponents"] | exponents}
    options.out.write_text(json.dumps({"about": about} | merged, indent=1) + "\n")  # --only renews its own rows


if __name__ == "__main__":
    main()
