"""What the benchmarks beside torchvision's detectors share: the same engine, loader and augmentation for both."""

import argparse
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import torch
import torchvision
from torch import Tensor, nn

from boxwright.engine.device import resolve_precision
from boxwright.engine.train import train
from boxwright.models.images import to_float
from boxwright.recipes import load_recipe
from boxwright.structures import Detections, Targets

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Contest:
    """A recipe built twice.

    Attributes:
        name: of the script.
        recipe: name of the recipe.
        overrides: of both.
        detectors: functions that build a detector from a recipe and class names, by name: ours first.
    """

    name: str
    recipe: str
    overrides: Sequence[str]
    detectors: Mapping[str, Callable[..., nn.Module]]


class Features(nn.Module):
    """Our backbone and neck in the form that torchvision's detectors take."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, out_channels: int | list[int]) -> None:
        super().__init__()
        self.backbone, self.neck, self.out_channels = backbone, neck, out_channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(level), feature) for level, feature in enumerate(self.neck(self.backbone(images))))


class Adapter(nn.Module):
    """A detector of torchvision, `model`, behind our detector's interface."""

    first_label: ClassVar[int] = 1  # class 0 is background
    model: nn.Module

    def forward(self, images: Tensor, targets: Targets | None = None) -> dict[str, Tensor] | Detections:
        pixels = list(to_float(images))
        if self.training:
            lists = targets.to_list()
            labels = [one["labels"] + self.first_label for one in lists]
            return self.model(pixels, [one | {"labels": own} for one, own in zip(lists, labels, strict=True)])
        with torch.autocast(images.device.type, enabled=False):  # it would decode its boxes in half precision
            return padded(self.model(pixels), self.first_label)


def padded(outputs: list[dict[str, Tensor]], first_label: int) -> Detections:
    """Stack torchvision's list into our padded batch, whose labels count from 0."""
    most = max(len(output["scores"]) for output in outputs)
    grow = partial(nn.functional.pad, value=0)
    return Detections(
        torch.stack([grow(o["boxes"], (0, 0, 0, most - len(o["boxes"]))) for o in outputs]),
        torch.stack([grow(o["scores"], (0, most - len(o["scores"]))) for o in outputs]),
        torch.stack([grow(o["labels"] - first_label, (0, most - len(o["labels"]))) for o in outputs]),
        torch.tensor([len(o["scores"]) for o in outputs], device=outputs[0]["scores"].device),
    )


def accuracy(contest: Contest, name: str, data: Path, epochs: int, seed: int, device: str) -> dict[str, float]:
    """Train and return the validation AP and AP50."""
    overrides = [*contest.overrides, f"schedule.epochs={epochs}", f"train.seed={seed}", "train.eval_every=1000"]
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("boxwright.engine.train.build_detector", contest.detectors[name]),
        patch("torch.cuda.is_available", return_value=device == "cuda"),
    ):
        start = time.monotonic()
        run = train(contest.recipe, data, overrides=overrides, output=Path(folder) / "run", quiet=True)
        rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "AP" in row][-1]
    return {"seed": seed, "AP": last["AP"], "AP50": last["AP50"], "seconds": round(time.monotonic() - start)}


def make_step(contest: Contest, name: str, device: str) -> Callable[[], float]:
    """Return a function that takes one training step on fixed random scenes and says how many seconds it took."""
    torch.manual_seed(0)
    recipe = load_recipe(contest.recipe, [*contest.overrides])
    detector = contest.detectors[name](recipe, ["a", "b", "c"], pretrained=False).train()
    detector.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(detector.parameters())
    images = torch.randint(0, 256, (recipe.data.batch_size, 3, 320, 320), dtype=torch.uint8).to(device)
    corners = torch.rand(recipe.data.batch_size, 14, 2) * 240
    sizes = torch.rand(recipe.data.batch_size, 14, 2) * 60 + 16
    targets = Targets.from_list(
        [
            {"boxes": torch.cat([xy, xy + wh], dim=1), "labels": torch.randint(0, 3, (14,))}
            for xy, wh in zip(corners, sizes, strict=True)
        ]
    ).to(device)

    bf16 = resolve_precision(recipe.train.precision, device) == "bf16-mixed"  # as the engine chooses on this machine

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = sum(detector(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return step


def peak_memory(contest: Contest, name: str, device: str, queue: multiprocessing.Queue) -> None:
    """Put the MiB that ten steps add at their peak to a process that has built the detector.

    On a GPU those that PyTorch has allocated there, else resident ones.
    """
    torch.set_num_threads(2)
    step = make_step(contest, name, device)
    before = torch.cuda.memory_allocated() / 2**20 if device == "cuda" else resident("VmRSS")
    for _ in range(10):
        step()
    after = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else resident("VmHWM")
    queue.put(after - before)


def resident(field: str) -> float:
    """Resident set of this process in MiB, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def machine(device: str) -> str:
    """Say what computes."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def run(contest: Contest, description: str) -> None:
    """Time, weigh and train both; print what comes out and write it to `benchmarks/results`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    device, detectors = arguments.device, contest.detectors
    ours, theirs = detectors

    steps = {name: make_step(contest, name, device) for name in detectors}
    times = [{name: step() for name, step in steps.items()} for _ in range(15)][3:]
    ratio = statistics.median(row[ours] / row[theirs] for row in times)
    del steps
    result = {
        "machine": machine(device),
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
        "command": f"python benchmarks/{contest.name}.py --epochs {arguments.epochs} --seeds {arguments.seeds}",
        "step_ms": {name: round(1000 * statistics.median(row[name] for row in times), 1) for name in detectors},
        "step_ratio": round(ratio, 3),
        "peak_MiB": {},
        "accuracy": {name: [] for name in detectors},
    }
    context = multiprocessing.get_context("spawn")
    for name in detectors:
        queue = context.Queue()
        process = context.Process(target=peak_memory, args=(contest, name, device, queue))
        process.start()
        result["peak_MiB"][name] = round(queue.get(), 1)
        process.join()
    print(json.dumps(result, indent=2), flush=True)
    for seed in range(arguments.seeds):
        for name in detectors:
            result["accuracy"][name].append(accuracy(contest, name, arguments.data, arguments.epochs, seed, device))
            print(name, result["accuracy"][name][-1], flush=True)
    result["mean_AP"] = {
        name: round(statistics.mean(row["AP"] for row in rows), 4) for name, rows in result["accuracy"].items()
    }
    file = RESULTS / f"{contest.name}.json"
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {file}")
