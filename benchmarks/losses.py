"""Time and memory of the losses beside torchvision's, forward and backward, interleaved in one process.

    python benchmarks/losses.py                # 16 x 8400 x 80 logits
    python benchmarks/losses.py --priors 200700 --images 2 --out benchmarks/results/losses_large.json

The losses take turns, each round in another order. Each ratio is the median over the rounds of time / baseline's time
of the same round, so that a busy machine changes both; `best` is the ratio of the fastest rounds, which other work on
the machine disturbs least.
Peak is the allocator's high water above the start, in units of the bytes of the inputs (gradient included).
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from boxwright.losses import (
    EqualizedV2Loss,
    FederatedLoss,
    GHMCLoss,
    MatchabilityAwareLoss,
    SeesawLoss,
    SigmoidCrossEntropyLoss,
    SoftmaxCrossEntropyLoss,
    SoftmaxFocalLoss,
    quality_focal_loss,
    sigmoid_focal_loss,
    task_aligned_focal_loss,
    varifocal_loss,
)

Run = Callable[[], Tensor]
CLASSES = 80
OURS = {
    "focal": sigmoid_focal_loss,
    "quality focal": quality_focal_loss,
    "varifocal": varifocal_loss,
    "task-aligned focal": task_aligned_focal_loss,
}
OTHERS = {
    "sigmoid cross-entropy": SigmoidCrossEntropyLoss(),
    "matchability-aware": MatchabilityAwareLoss(),
    "softmax cross-entropy": SoftmaxCrossEntropyLoss(background="none"),
    "softmax focal": SoftmaxFocalLoss(background="none"),
    "GHM-C": GHMCLoss(),
    "seesaw": SeesawLoss(CLASSES, background="none"),
    "equalised v2": EqualizedV2Loss(CLASSES),
    "federated": FederatedLoss(),
}


def classification(images: int, priors: int, compiled: bool) -> tuple[Tensor, dict[str, Run]]:
    """The inputs and the calls, the baseline first."""
    logits = torch.randn(images, priors, CLASSES) - 3
    labels = torch.where(torch.rand(images, priors) < 0.02, torch.randint(CLASSES, (images, priors)), -1)
    scores = torch.rand(images, priors)
    dense = (labels.unsqueeze(-1) == torch.arange(CLASSES)).float()
    logits.requires_grad_()
    runs: dict[str, Run] = {"torchvision sigmoid_focal_loss": lambda: torchvision_focal(logits, dense, reduction="sum")}
    for name, loss in OURS.items():
        options = {} if name == "focal" else {"scores": scores}
        runs[name] = lambda loss=loss, options=options: loss(logits, labels, reduction="sum", **options)
        runs[f"{name}, dense targets"] = lambda loss=loss: loss(logits, dense, reduction="sum")
        if compiled:
            fast = torch.compile(loss, fullgraph=True)
            runs[f"{name}, compiled"] = lambda fast=fast, options=options: fast(
                logits, labels, reduction="sum", **options
            )
    for name, module in OTHERS.items():
        runs[name] = lambda module=module: module(logits, labels)
    return logits, runs


def step(inputs: Tensor, run: Run) -> float:
    inputs.grad = None
    start = time.perf_counter()
    run().backward()
    return time.perf_counter() - start


def peak(inputs: Tensor, run: Run) -> int:
    """High water of the allocator above the start, in bytes."""
    inputs.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run().backward()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    level = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        highest = max(highest, level)
    return highest


def measure(inputs: Tensor, runs: dict[str, Run], rounds: int) -> list[dict[str, float | str]]:
    """One row per call: median milliseconds, ratio to the first call, peak in units of the inputs."""
    for run in runs.values():
        step(inputs, run)
    names, shuffle = list(runs), random.Random(0)
    # what comes after something large pays for the memory that this gives back: nobody always comes after the same one
    orders = [shuffle.sample(names, len(names)) for _ in range(rounds)]
    times = [{name: step(inputs, runs[name]) for name in order} for order in orders]
    baseline = names[0]
    size = inputs.numel() * inputs.element_size()
    return [
        {
            "loss": name,
            "ms": round(statistics.median(turn[name] for turn in times) * 1e3, 1),
            "ratio": round(statistics.median(turn[name] / turn[baseline] for turn in times), 3),
            "best": round(min(turn[name] for turn in times) / min(turn[baseline] for turn in times), 3),
            "peak": round(peak(inputs, run) / size, 2),
        }
        for name, run in runs.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--priors", type=int, default=8400)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "losses.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    inputs, runs = classification(options.images, options.priors, not options.no_compile)
    rows = measure(inputs, runs, options.rounds)
    result = {
        "machine": f"{platform.machine()}, {options.threads} threads",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "logits": list(inputs.shape),
        "rounds": options.rounds,
        "rows": rows,
    }
    print(f"{'loss':40} {'ms':>8} {'x torchvision':>14} {'best':>8} {'peak x logits':>14}")
    for row in rows:
        print(f"{row['loss']:40} {row['ms']:8.1f} {row['ratio']:14.3f} {row['best']:8.3f} {row['peak']:14.2f}")
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
