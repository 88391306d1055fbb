"""What happens when a loss is NaN or infinite: name the step, the images, the term and the tensor; keep the batch."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.engine.checkpoint import load_state, save_state
from boxwright.structures import Targets

__all__ = ["Finding", "diagnose", "dump_batch", "load_batch"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The first tensor that is not finite, in the order in which the step computes them."""

    tensor: str
    detail: str

    def __str__(self) -> str:
        return f"{self.tensor} ({self.detail})"


def diagnose(detector: nn.Module, images: Tensor, targets: Targets) -> tuple[dict[str, float], Finding | None]:
    """Repeat a training forward pass and find the first tensor that is not finite.

    Looks at the images, the boxes, the weights, the output of every module as it runs, and the losses.

    Args:
        detector: in training mode; its buffers (batch-norm statistics) are left as they were.
        images: (B, 3, H, W).
        targets: objects of the images.

    Returns:
        The loss terms, and the finding or None when everything is finite this time.
    """
    buffers = {name: buffer.clone() for name, buffer in detector.named_buffers()}
    findings = [*_inspect("images", images), *_inspect("targets.boxes", targets.boxes)]
    for name, parameter in detector.named_parameters():
        findings += _inspect(name, parameter)
    with ExitStack() as hooks, torch.no_grad():
        for name, module in detector.named_modules():
            if name and not any(module.children()):
                hooks.callback(module.register_forward_hook(_recorder(name, findings)).remove)
        losses = detector(images, targets)
    for name, buffer in detector.named_buffers():
        buffer.copy_(buffers[name])
    terms = {name: float(loss) for name, loss in losses.items()}
    for name, loss in losses.items():
        findings += _inspect(f"loss term {name!r}", loss)
    return terms, findings[0] if findings else None


def dump_batch(path: Path, images: Tensor, targets: Targets, info: dict[str, Any]) -> None:
    """Write a batch so that `load_batch` gives it back; `info` holds plain values such as step and image names."""
    save_state(path, {"images": images, "targets": [*map(dict, targets.to_list())], "info": info})


def load_batch(path: Path) -> tuple[Tensor, list[dict[str, Tensor]], dict[str, Any]]:
    """Read a dumped batch: images and targets as `detector(images, targets)` takes them, and info.

    Raises:
        RunError: the file is missing or broken.
    """
    state = load_state(path)
    return state["images"], state["targets"], state["info"]


def _recorder(name: str, findings: list[Finding]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in _tensors(output):
            findings.extend(_inspect(f"output of {name} [{type(module).__name__}]", tensor))

    return hook


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _inspect(name: str, tensor: Tensor) -> list[Finding]:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return []
    bad = ~torch.isfinite(tensor)
    count = int(bad.sum())
    if count == 0:
        return []
    nans = int(torch.isnan(tensor).sum())
    detail = f"{nans} NaN and {count - nans} infinite of {tensor.numel()} values, shape {tuple(tensor.shape)}"
    return [Finding(name, detail)]
