"""One optimiser step and everything it changes: what a checkpoint has to carry."""

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from boxwright.criteria import DenseCriterion
from boxwright.data.dataset import Batch, seed_from
from boxwright.distributed import all_reduce_sum
from boxwright.engine.device import memory_format
from boxwright.engine.ema import ModelEMA
from boxwright.engine.optim import build_optimizer
from boxwright.engine.schedule import Schedule
from boxwright.errors import RunError
from boxwright.recipes.training import OptimizerConfig
from boxwright.structures import Targets

__all__ = ["StepResult", "Trainer", "check_same_terms", "grouped", "seed_everything"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepResult:
    """Outcome of one optimiser step; tensors stay on the device, so that the host does not wait.

    Attributes:
        names: the loss terms.
        terms: (T,) float32 values of the terms on this process, averaged as the gradients are.
        bad: scalar, 1 if any term of any process and micro-batch was not finite.
        images: number of images on this process.
    """

    names: tuple[str, ...]
    terms: Tensor
    bad: Tensor
    images: int


class _Part(NamedTuple):
    """One micro-batch: its loss terms, whether any is not finite, what they were divided by, the global count behind.

    A criterion that does not tell counts as dividing by the number of images of equal micro-batches.
    """

    terms: Tensor
    bad: Tensor
    weight: Tensor
    positives: Tensor


class _Opaque(nn.Module):
    """Passes images and targets as a closure, because Fabric would cast the boxes to half precision otherwise."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, arguments: Callable[[], tuple[Tensor, Targets]]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.detector(*arguments())
        return losses


class Trainer:
    """A detector with its optimiser, schedule and average, ready to step.

    Args:
        fabric: launched; decides device, precision and processes.
        detector: in torchvision's contract. Its `criterion`, if it has `positives` and `normalizer`, makes accumulated
            micro-batches equal one large batch.
        optimizer: the recipe's section.
        schedule: learning-rate factors by step.
        clip_norm: largest L2 norm of the gradient.
        ema_decay: decay of the averaged weights; None keeps none.
        check: called after the forward pass of every micro-batch with the step's index, its batches and a flag that
            is 1 if the loss is not finite on any process; returns True to give the step up. None leaves it to the
            device, without waiting, to keep the weights.
    """

    def __init__(
        self,
        fabric: Fabric,
        detector: nn.Module,
        optimizer: OptimizerConfig,
        schedule: Schedule,
        *,
        clip_norm: float | None = None,
        ema_decay: float | None = None,
        check: Callable[[int, Sequence[Batch], Tensor], bool] | None = None,
    ) -> None:
        self.fabric = fabric
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.check = check
        self.step_count = 0
        self._learned_from = False  # whether the terms have been seen to have gradients
        self.detector = detector.to(fabric.device, memory_format=memory_format(fabric.device))  # type: ignore[call-overload]
        self._scaler = getattr(fabric.strategy.precision, "scaler", None)
        self.optimizer = build_optimizer(self.detector, optimizer, fused=self._scaler is None)
        self._model, self._wrapped = fabric.setup(_Opaque(self.detector), self.optimizer)
        self.ema = None if ema_decay is None else ModelEMA(self.detector, ema_decay)
        self._watch_matches(True)

    @property
    def evaluated(self) -> nn.Module:
        """The detector to evaluate and to ship: the average if there is one."""
        return self.detector if self.ema is None else self.ema.detector

    def step(self, batches: Sequence[Batch]) -> StepResult:
        """Run one optimiser step over micro-batches; several give the gradient of their concatenation.

        Exactly so where everything is divided by the criterion's `normalizer`; `recipes.compatibility.remarks` says of
        a recipe where it is not.

        Every micro-batch's loss is a sum divided by its own normaliser. Multiplying by it gives the sum back; dividing
        the added gradients by the normaliser of all micro-batches together gives what one batch would.
        """
        self.schedule.apply(self.optimizer, self.step_count)
        parts: list[_Part] = []
        losses: dict[str, Tensor] = {}
        for batch in batches:
            last = len(parts) + 1 == len(batches)
            with self.fabric.no_backward_sync(self._model, enabled=not last):
                before, uncounted = losses, self._positives
                losses = self._model(lambda batch=batch: (_laid_out(batch.images), batch.targets))
                parts.append(self._part(losses, uncounted))
                check_same_terms((before or losses).keys(), losses.keys())
                if self.check is not None and self.check(self.step_count, batches, parts[-1].bad):
                    self._wrapped.zero_grad()
                    break
                total = torch.stack([*losses.values()]).sum()
                # relative to the first micro-batch, so that float16 gradients keep their size
                self.fabric.backward(total if len(batches) == 1 else total * (parts[-1].weight / parts[0].weight))
        else:
            self._update(parts)
        self.step_count += 1
        terms = sum(part.terms * scale for part, scale in zip(parts, self._scales(parts), strict=True))
        bad = torch.stack([part.bad for part in parts]).amax()
        return StepResult(tuple(losses), terms, bad, sum(len(batch.images) for batch in batches))

    def _watch_matches(self, on: bool) -> None:
        for module in self.detector.modules():
            if isinstance(module, DenseCriterion):
                module.checks_matches = on

    @property
    def _positives(self) -> Tensor | None:
        """What the criterion has counted last, if it counts."""
        return getattr(getattr(self.detector, "criterion", None), "positives", None)

    def _part(self, losses: dict[str, Tensor], uncounted: Tensor | None) -> _Part:
        _check_terms(losses, self._learned_from)
        if not self._learned_from:
            self._learned_from = True
            self._watch_matches(False)
        terms = torch.stack([loss.detach().float() for loss in losses.values()])
        bad = all_reduce_sum((~terms.isfinite()).any().float()).clamp(max=1)
        positives = self._positives
        if positives is not None and positives is not uncounted:  # one that forgets to count keeps an old tensor
            return _Part(terms, bad, self.detector.criterion.normalizer.float(), positives.float())
        return _Part(terms, bad, terms.new_ones(()), terms.new_tensor(float(self.fabric.world_size)))

    def _scales(self, parts: Sequence[_Part]) -> Tensor:
        """Share of every micro-batch's loss in the loss of the step."""
        if len(parts) == 1:
            return parts[0].weight.new_ones(1)
        normalizer = torch.stack([part.positives for part in parts]).sum().clamp(min=1) / self.fabric.world_size
        return torch.stack([part.weight for part in parts]) / normalizer

    def _update(self, parts: Sequence[_Part]) -> None:
        if len(parts) > 1:
            gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_mul_(gradients, self._scales(parts)[0])
        if self.clip_norm is not None:
            self.fabric.clip_gradients(self._model, self._wrapped, max_norm=self.clip_norm, error_if_nonfinite=False)
        if self.check is None and self._scaler is None:
            # fused kernels leave weights alone where this is 1, so that a step that is not checked yet does no harm
            self.optimizer.found_inf = torch.stack([part.bad for part in parts]).amax()  # type: ignore[attr-defined]
        self._wrapped.step()
        self._wrapped.zero_grad()
        if self.ema is not None:
            self.ema.update(self.detector)

    def state(self) -> dict[str, Any]:
        """Return everything that a step changes, as tensors and plain values."""
        return {
            "step": self.step_count,
            "detector": self.detector.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.detector.state_dict(),
            "ema_updates": 0 if self.ema is None else self.ema.updates,
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned, with the settings of the recipe, which may have changed since.

        Raises:
            RuntimeError: weights of another architecture or class count.
            ValueError: another optimiser, or other parameter groups.
        """
        self.step_count = state["step"]
        self.detector.load_state_dict(state["detector"])
        self._load_optimizer(state["optimizer"])
        if self.ema is not None:
            self.ema.detector.load_state_dict(state["ema"] or state["detector"])
            self.ema.updates = state["ema_updates"]
        if self._scaler is not None and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Take over an optimiser's memory, not its learning rate, weight decay and the like."""
        settings = [
            {name: value for name, value in group.items() if name != "params"} for group in self.optimizer.param_groups
        ]
        if any(("betas" in old) != ("betas" in new) for old, new in zip(state["param_groups"], settings, strict=False)):
            raise ValueError("it was trained with another optimizer.type")
        self.optimizer.load_state_dict(state)
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)


def _check_terms(losses: Any, learned_from: bool) -> None:
    """Refuse what a criterion must not return; gradients are looked at only until they have been seen."""
    if not isinstance(losses, dict) or not losses:
        raise RunError(f"the criterion must return a dictionary of losses by name, got {losses!r:.80}")
    for name, loss in losses.items():
        if not isinstance(loss, Tensor):
            raise RunError(f"loss term {name} must be a tensor, got {loss!r:.80}")
        if loss.ndim:
            shape = tuple(loss.shape)
            raise RunError(f"loss term {name} has shape {shape}, but is to be one number; the loss must reduce it")
        if not (learned_from or loss.requires_grad):
            raise RunError(
                f"loss term {name} has no gradient, so that nothing would learn from it: is it detached, made with "
                "torch.no_grad or of new tensors? Where there is nothing to charge, give 0 times the logits' sum"
            )


def check_same_terms(before: Collection[str], now: Collection[str]) -> None:
    """Refuse loss terms that come and go within an epoch, whose values would be added up under wrong names.

    Raises:
        RunError: names both.
    """
    if [*before] != [*now]:
        raise RunError(
            f"the criterion returned the loss terms {', '.join(now)} after {', '.join(before)}: return the same ones "
            "in the same order for every batch, 0 times the logits' sum where there is nothing to charge"
        )


def _laid_out(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=memory_format(images.device))


def grouped(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


def seed_everything(*entropy: int) -> None:
    """Seed torch, numpy and random from integers (seed, epoch, rank), so that no generator's state needs saving."""
    seed = seed_from(*entropy)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (third-party modules draw from it)
    torch.manual_seed(seed)
