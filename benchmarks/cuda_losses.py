"""The losses on a GPU beside torchvision's and beside the traffic that cannot be avoided.

    python benchmarks/cuda_losses.py --out benchmarks/results/cuda_losses.json

Microseconds per call, between CUDA events around a round of calls, each on other tensors, together larger than any
cache; the median of the rounds. `floor` is a copy of the logits on the same card: what reading them and writing their
gradient takes.

- kernel: one launch of the fused kernel, which writes row sums and gradient. The goal is 1.5 floors.
- graph: forward and backward of `reduction="mean"` as a CUDA graph: all launches, no Python between them.
- eager: the same, launched from Python. Small problems wait for the launches, not for the memory.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
import triton
from box_losses import OURS as BOXES
from torch import Tensor
from torchvision import ops

from boxwright import losses
from boxwright.kernels import DistanceModulator, FocalModulator, VarifocalModulator
from boxwright.kernels.fused import fill

CLASSES = 80
# several times the second-level cache of any card
CACHE = 2**28
LOSSES = {
    "focal": (losses.sigmoid_focal_loss, FocalModulator(2.0, 0.25), False),
    "quality focal": (losses.quality_focal_loss, DistanceModulator(2.0), True),
    "varifocal": (losses.varifocal_loss, VarifocalModulator(2.0, 0.75, weight_by_target=True, detach=False), True),
    "task-aligned focal": (losses.task_aligned_focal_loss, DistanceModulator(2.0), True),
}
Row = dict[str, float | str]


def microseconds(calls: list[Callable[[], object]], graph: bool, rounds: int = 25) -> float:
    """Median time of a call when all are made in turn, each of which has tensors of its own."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    play = graph_of(calls) if graph else lambda: [call() for call in calls]
    play()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        play()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / len(calls))
    return statistics.median(times) * 1e3


def graph_of(calls: list[Callable[[], object]]) -> Callable[[], None]:
    """Capture calls; the result replays them. What they return stays, so that no call writes where another did."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        calls[0]()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]

    def play(kept: object = kept) -> None:
        graph.replay()

    return play


def step(inputs: Tensor, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: torch.autograd.grad(loss(), inputs)[0]


def peak(inputs: Tensor, call: Callable[[], object]) -> float:
    """High water of the allocator above the start, in units of the inputs."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - held) / (inputs.numel() * inputs.element_size())


def classification(images: int, priors: int, dtype: torch.dtype) -> list[Row]:
    """One row per loss on (images, priors, 80) logits."""
    shape = (images, priors, CLASSES)
    copies = max(2, CACHE // (images * priors * CLASSES * dtype.itemsize))
    many = [(torch.randn(shape, device="cuda") - 3).to(dtype).requires_grad_() for _ in range(copies)]
    labels = torch.where(torch.rand(shape[:2]) < 0.02, torch.randint(CLASSES, shape[:2]), -1).cuda()
    scores, normalizer = torch.rand(shape[:2]).cuda(), torch.tensor(1000.0).cuda()
    gradients = [torch.empty_like(x) for x in many]
    sums = torch.empty(images * priors, device="cuda")
    floor = microseconds(
        [lambda a=a, b=b: b.copy_(a.detach()) for a, b in zip(many, gradients, strict=True)], graph=True
    )
    head = {"logits": f"{images} x {priors} x {CLASSES}, {str(dtype).removeprefix('torch.')}"}
    rows: list[Row] = [head | {"loss": "floor: copy of the logits", "kernel us": floor, "kernel / floor": 1.0}]
    dense = (labels.unsqueeze(-1) == torch.arange(CLASSES, device="cuda")).to(dtype)
    calls = {"torchvision focal": (lambda x: ops.sigmoid_focal_loss(x, dense, reduction="sum") / normalizer)}
    for name, (loss, _, soft) in LOSSES.items():
        options = {"scores": scores} if soft else {}
        calls[name] = lambda x, loss=loss, options=options: loss(
            x, labels, reduction="mean", normalizer=normalizer, **options
        )
    for name, call in calls.items():
        row: Row = dict(head | {"loss": name})
        if name in LOSSES:
            _, modulator, soft = LOSSES[name]
            launch = [
                lambda a=a, b=b, modulator=modulator, soft=soft: fill(
                    a.detach().view(-1, CLASSES),
                    labels.view(-1),
                    scores.view(-1) if soft else None,
                    modulator,
                    sums,
                    b.view(-1, CLASSES),
                )
                for a, b in zip(many, gradients, strict=True)
            ]
            row["kernel us"] = microseconds(launch, graph=True)
            row["kernel / floor"] = row["kernel us"] / floor
        steps = [step(x, lambda x=x, call=call: call(x)) for x in many]
        row["eager us"] = microseconds(steps, graph=False)
        row["peak"] = peak(many[0], steps[0])
        row["graph us"] = microseconds(steps, graph=True)
        row["graph / floor"] = row["graph us"] / floor
        rows.append(row)
    for row in rows[1:]:
        for how in ("eager", "graph"):
            row[f"{how} / torchvision"] = row[f"{how} us"] / rows[1][f"{how} us"]
    return rows


def pairs(count: int) -> list[Row]:
    """One row per loss on pairs of boxes, forward and backward."""
    copies = max(2, CACHE // (count * 32))
    corner = torch.rand(copies, count, 2, device="cuda") * 600
    targets = torch.cat([corner, corner + 1 + torch.rand_like(corner) * 150], dim=-1)
    boxes = [x.requires_grad_() for x in targets.roll(1, 1).lerp(targets, 0.7)]
    calls = {
        "torchvision GIoU": lambda x, t: ops.generalized_box_iou_loss(x, t, reduction="sum"),
        "torchvision DIoU": lambda x, t: ops.distance_box_iou_loss(x, t, reduction="sum"),
        "torchvision CIoU": lambda x, t: ops.complete_box_iou_loss(x, t, reduction="sum"),
    } | {name: (lambda x, t, loss=loss: loss(x, t, reduction="sum")) for name, loss in BOXES.items()}
    rows: list[Row] = []
    for name, call in calls.items():
        steps = [step(x, lambda x=x, t=t, call=call: call(x, t)) for x, t in zip(boxes, targets, strict=True)]
        row: Row = {"logits": f"{count} pairs", "loss": name, "eager us": microseconds(steps, graph=False)}
        row["peak"] = peak(boxes[0], steps[0])
        row["eager / torchvision"] = row["eager us"] / (rows or [row])[0]["eager us"]
        if name in BOXES:  # torchvision's wait for the device, which no graph can hold
            row["graph us"] = microseconds(steps, graph=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cuda_losses.json")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for images, priors in ((16, 8400), (2, 200_700)):
        for dtype in (torch.float32, torch.bfloat16):
            rows += classification(images, priors, dtype)
    rows += pairs(1_000_000)
    columns = ("kernel us", "kernel / floor", "graph us", "graph / floor", "graph / torchvision")
    columns += ("eager us", "eager / torchvision", "peak")
    for index, row in enumerate(rows):
        if index == 0 or rows[index - 1]["logits"] != row["logits"]:
            print(f"\n{row['logits']:28}" + "".join(f"{name:>20}" for name in columns))
        cells = (f"{row[name]:20.2f}" if name in row else " " * 20 for name in columns)
        print(f"{row['loss']:28}" + "".join(cells))
    result = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "triton": triton.__version__,
        "rows": [
            {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}
            for row in rows
        ],
    }
    print("\n" + json.dumps({name: value for name, value in result.items() if name != "rows"}))
    options.out.parent.mkdir(exist_ok=True, parents=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
