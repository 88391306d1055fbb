"""Decides what happens when a loss is not finite, without making a GPU wait."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from torch import Tensor, nn

from boxwright.data.dataset import Batch
from boxwright.engine.nonfinite import diagnose, dump_batch
from boxwright.errors import RunError

__all__ = ["NonFiniteGuard"]


class NonFiniteGuard:
    """Watches the losses of every step; all processes come to the same decision.

    `stop` on a GPU looks at a step only after the next one has been queued, so that the device never idles; the
    optimiser leaves the weights alone in the meantime. `skip`, and everything on a CPU, is decided before the backward
    pass.

    Args:
        fabric: launched.
        detector: to repeat the failing pass with.
        folder: where the failing batch goes.
        mode: `stop` or `skip`.
        name: gives an image's name from its id.
    """

    def __init__(
        self,
        fabric: Fabric,
        detector: nn.Module,
        folder: Path,
        mode: Literal["stop", "skip"] = "stop",
        name: Callable[[int], str] = str,
    ) -> None:
        self.fabric, self.detector, self.folder, self.mode, self.name = fabric, detector, folder, mode, name
        self.skipped = 0
        self._pending: tuple[int, Sequence[Batch], Tensor, torch.cuda.Event] | None = None
        self._buffers: list[Tensor] = []
        self.remember()

    @property
    def check(self) -> Callable[[int, Sequence[Batch], Tensor], bool] | None:
        """The trainer's `check`: decides at once, or None where the decision waits for `observe`."""
        return self._decide if self.mode == "skip" or self.fabric.device.type != "cuda" else None

    def remember(self) -> None:
        """Keep the buffers as they are (statistics of batch norm, for example), since a skipped step goes back to them.

        Called when a checkpoint has been loaded; every finite micro-batch does it as well.
        """
        if self.mode == "skip":
            self._buffers = [buffer.clone() for buffer in self.detector.buffers()]

    def observe(self, step: int, batches: Sequence[Batch], bad: Tensor) -> None:
        """Look at the previous step, and remember this one for the next call; does nothing where `check` decides."""
        self.settle()
        if self.check is None:
            flag = bad.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending = step, batches, flag, event

    def settle(self) -> None:
        """Wait for the step that has not been looked at yet (before a checkpoint is written, for example).

        Raises:
            RunError: its loss was not finite.
        """
        if self._pending is None:
            return
        step, batches, flag, event = self._pending
        self._pending = None
        event.synchronize()
        if flag:
            raise RunError(self._report(step, batches))

    def _decide(self, step: int, batches: Sequence[Batch], bad: Tensor) -> bool:
        if not bad:
            self.remember()
            return False
        if self.mode == "stop":
            raise RunError(self._report(step, batches))
        self.skipped += 1
        for kept, buffer in zip(self._buffers, self.detector.buffers(), strict=True):
            buffer.copy_(kept)  # batch norm, for one, has seen the values already
        return True

    def _report(self, step: int, batches: Sequence[Batch]) -> str:
        """Name step, images, loss term and tensor; every process takes part, since criteria talk to each other."""
        sentences = []
        for index, batch in enumerate(batches):
            with self.fabric.autocast():
                terms, finding = diagnose(self.detector, batch.images, batch.targets)
            broken = [f"{name} = {value}" for name, value in terms.items() if not torch.tensor(value).isfinite()]
            if finding is None:
                continue
            images = [self.name(image_id) for image_id in batch.image_ids]
            path = self.folder / f"step-{step:06}-{self.fabric.global_rank}-{index}.pt"
            info = {"step": step, "images": images, "terms": terms, "finding": str(finding)}
            dump_batch(path, batch.images.cpu(), batch.targets.to("cpu"), info)
            sentences.append(
                f"loss term {', '.join(broken) or 'none on repeating'}; first tensor that is not finite: {finding}; "
                f"images: {', '.join(images)}; batch kept in {path} (boxwright.engine.load_batch reads it)"
            )
        return (
            f"the loss is not finite at step {step}. "
            + (". ".join(self._everywhere(sentences)) or "Repeating the step gave finite values")
            + ". Lower optimizer.lr, set train.clip_norm, or skip such steps with --on-nonfinite skip"
        )

    def _everywhere(self, sentences: list[str]) -> list[str]:
        if self.fabric.world_size == 1:
            return sentences
        gathered: list[list[str]] = [[] for _ in range(self.fabric.world_size)]
        dist.all_gather_object(gathered, sentences)
        return [sentence for part in gathered for sentence in part]
