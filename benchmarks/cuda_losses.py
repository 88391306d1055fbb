"""The losses on a GPU beside torchvision's and beside the traffic that cannot be avoided.

    python benchmarks/cuda_losses.py --out benchmarks/results/cuda_losses.json

Microseconds per call, between CUDA events around a round of calls, each on other tensors, together larger than any
cache; the median of the rounds. `floor` is a copy of the logits on the same card: what reading them and writing their
gradient takes.

- kernel: one launch of the fused kernel, which writes row sums and gradient. The goal is 1.5 floors.
- graph: forward and backward of `reduction="mean"` as a CUDA graph: all launches, no Python between them.
- eager: the same, launched from Python. Small problems wait for the launches, not for the memory.

Each row is printed and written as soon as it is measured.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch
import torchvision
import triton
from box_losses import pair_losses
from torch import Tensor
from torchvision import ops

from boxwright import losses
from boxwright.kernels import DistanceModulator, FocalModulator, VarifocalModulator
from boxwright.kernels.fused import fill

DEVICE = "cuda"
CLASSES = 80
# several times the second-level cache of any card
CACHE = 2**28
LOSSES = {
    "focal": (losses.sigmoid_focal_loss, FocalModulator(2.0, 0.25), False),
    "quality focal": (losses.quality_focal_loss, DistanceModulator(2.0), True),
    "varifocal": (losses.varifocal_loss, VarifocalModulator(2.0, 0.75, weight_by_target=True, detach=False), True),
    "task-aligned focal": (losses.task_aligned_focal_loss, DistanceModulator(2.0), True),
}
COLUMNS = ("kernel us", "kernel / floor", "graph us", "graph / floor", "graph / torchvision")
COLUMNS += ("eager us", "eager / torchvision", "peak")
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


def classification(images: int, priors: int, dtype: torch.dtype) -> Iterator[Row]:
    """One row per loss on (images, priors, 80) logits, the copy and torchvision's first."""
    shape = (images, priors, CLASSES)
    copies = max(2, CACHE // (images * priors * CLASSES * dtype.itemsize))
    many = [(torch.randn(shape, device=DEVICE) - 3).to(dtype).requires_grad_() for _ in range(copies)]
    labels = torch.where(torch.rand(shape[:2]) < 0.02, torch.randint(CLASSES, shape[:2]), -1).to(DEVICE)
    scores, normalizer = torch.rand(shape[:2]).to(DEVICE), torch.tensor(1000.0).to(DEVICE)
    gradients = [torch.empty_like(x) for x in many]
    sums = torch.empty(images * priors, device=DEVICE)
    floor = microseconds(
        [lambda a=a, b=b: b.copy_(a.detach()) for a, b in zip(many, gradients, strict=True)], graph=True
    )
    head = {"logits": f"{images} x {priors} x {CLASSES}, {str(dtype).removeprefix('torch.')}"}
    yield head | {"loss": "floor: copy of the logits", "kernel us": floor, "kernel / floor": 1.0}
    dense = (labels.unsqueeze(-1) == torch.arange(CLASSES, device=DEVICE)).to(dtype)
    baseline = step_row(many, lambda x: ops.sigmoid_focal_loss(x, dense, reduction="sum") / normalizer)
    yield head | {"loss": "torchvision focal"} | baseline | compared(baseline, baseline, floor)
    for name, (loss, modulator, soft) in LOSSES.items():
        options = {"scores": scores} if soft else {}
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
        kernel = microseconds(launch, graph=True)
        row = step_row(
            many,
            lambda x, loss=loss, options=options: loss(x, labels, reduction="mean", normalizer=normalizer, **options),
        )
        kernels = {"kernel us": kernel, "kernel / floor": kernel / floor}
        yield head | {"loss": name} | kernels | row | compared(row, baseline, floor)


def step_row(many: list[Tensor], loss: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Time and peak of forward and backward."""
    steps = [step(x, lambda x=x: loss(x)) for x in many]
    eager = microseconds(steps, graph=False)
    return {"eager us": eager, "peak": peak(many[0], steps[0]), "graph us": microseconds(steps, graph=True)}


def compared(row: dict[str, float], baseline: dict[str, float], floor: float) -> dict[str, float]:
    """Times in units of the floor and of the baseline's."""
    ratios = {f"{how} / torchvision": row[f"{how} us"] / baseline[f"{how} us"] for how in ("eager", "graph")}
    return ratios | {"graph / floor": row["graph us"] / floor}


def pairs(count: int) -> Iterator[Row]:
    """One row per loss on pairs of boxes, forward and backward, torchvision's first."""
    copies = max(2, CACHE // (count * 32))
    corner = torch.rand(copies, count, 2, device=DEVICE) * 600
    targets = torch.cat([corner, corner + 1 + torch.rand_like(corner) * 150], dim=-1)
    boxes = [x.requires_grad_() for x in targets.roll(1, 1).lerp(targets, 0.7)]
    peers, ours = pair_losses(DEVICE)
    baseline = None
    for name, loss in (peers | ours).items():
        steps = [step(x, lambda x=x, t=t, loss=loss: loss(x, t)) for x, t in zip(boxes, targets, strict=True)]
        eager = microseconds(steps, graph=False)
        baseline = baseline or eager
        row: Row = {
            "logits": f"{count} pairs",
            "loss": name,
            "eager us": eager,
            "eager / torchvision": eager / baseline,
        }
        row["peak"] = peak(boxes[0], steps[0])
        if name in ours:  # torchvision's wait for the device, which no graph can hold
            row["graph us"] = microseconds(steps, graph=True)
        yield row


def record(rows: Iterator[Row], head: dict[str, str], out: Path) -> None:
    """Print and write what there is after every row, so that a failure loses nothing but its own."""
    done: list[Row] = []
    for row in rows:
        if not done or done[-1]["logits"] != row["logits"]:
            print(f"\n{row['logits']:28}" + "".join(f"{name:>20}" for name in COLUMNS))
        cells = (f"{row[name]:20.2f}" if name in row else " " * 20 for name in COLUMNS)
        print(f"{row['loss']:28}" + "".join(cells), flush=True)
        done.append({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()})
        out.write_text(json.dumps(head | {"rows": done}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cuda_losses.json")
    options = parser.parse_args()
    options.out.parent.mkdir(exist_ok=True, parents=True)
    torch.manual_seed(0)
    head = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "triton": triton.__version__,
    }
    print(json.dumps(head))
    logits = [
        classification(images, priors, dtype)
        for images, priors in ((16, 8400), (2, 200_700))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    record(chain(*logits, pairs(1_000_000)), head, options.out)


if __name__ == "__main__":
    main()
