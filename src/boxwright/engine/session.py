"""The epochs of a training: steps, evaluation, checkpoints."""

import errno
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any, Literal, Protocol

from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

from boxwright.counts import counted
from boxwright.criteria import set_epoch
from boxwright.data.dataset import Batch
from boxwright.data.loader import lost_workers
from boxwright.engine.checkpoint import save_state, save_weights
from boxwright.engine.coco import Metrics
from boxwright.engine.guard import NonFiniteGuard
from boxwright.engine.interrupt import interruptible
from boxwright.engine.log import LossMeter, MetricsLog
from boxwright.engine.loop import Trainer, grouped, seed_everything
from boxwright.engine.progress import TrainingProgress
from boxwright.engine.run import Run
from boxwright.engine.schedule import Schedule
from boxwright.errors import BoxwrightError, DataError, RunError
from boxwright.files import remove_temporaries, write_text
from boxwright.recipes import Recipe, dump_recipe
from boxwright.recipes.own import raised_by

__all__ = ["EpochLoader", "Evaluate", "Session"]

LOG_EVERY = 10  # steps between two looks at the losses, each of which waits for the device

Evaluate = Callable[[nn.Module], Metrics]


class EpochLoader(Protocol):
    """What a session needs of a loader."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, which depend on its number alone."""


class Session:
    """One process's share of a training, from the run's last checkpoint, or from the start, to the recipe's last epoch.

    Args:
        fabric: launched.
        run: folder that receives metrics and checkpoints.
        recipe: optimiser, schedule and training sections are used.
        detector: in torchvision's contract.
        loader: micro-batches of this process.
        evaluate: measures a detector; its `AP` chooses the best checkpoint.
        classes: class names, which travel with the weights.
        on_nonfinite: what to do about a loss that is not finite.
        name: gives an image's name from its id.
        started: called once the run's checkpoint has been found to fit, before anything is written.
        console: where progress goes; None is silent.

    Raises:
        RunError: the run's checkpoint does not fit.
    """

    def __init__(
        self,
        fabric: Fabric,
        run: Run,
        recipe: Recipe,
        detector: nn.Module,
        loader: EpochLoader,
        evaluate: Evaluate | None = None,
        *,
        classes: Sequence[str] = (),
        on_nonfinite: Literal["stop", "skip"] = "stop",
        name: Callable[[int], str] = str,
        started: Callable[[], None] = lambda: None,
        console: Console | None = None,
    ) -> None:
        self.fabric, self.run, self.recipe, self.loader, self.evaluate = fabric, run, recipe, loader, evaluate
        self.classes = list(classes)
        self.accumulate = recipe.train.accumulate
        # like one large loader that drops its last batch, unless there is no other
        self.steps_per_epoch = max(len(loader) // self.accumulate, 1)
        self.guard = NonFiniteGuard(fabric, detector.to(fabric.device), run.path / "nonfinite", on_nonfinite, name)
        self.trainer = Trainer(
            fabric,
            detector,
            recipe.optimizer,
            Schedule.from_config(recipe.schedule, self.steps_per_epoch),
            clip_norm=recipe.train.clip_norm,
            ema_decay=recipe.train.ema,
            check=self.guard.check,
        )
        self.check_interrupt: Callable[[], None] = lambda: None
        self.epoch = 0
        self.best: float | None = None
        self.metrics: dict[str, Any] = {}
        self._predictions: Sequence[Mapping[str, Any]] = ()
        self._resume()
        self.guard.remember()
        if fabric.is_global_zero:
            for folder in (run.path, run.state_file.parent):
                remove_temporaries(folder)
        started()
        left = (recipe.schedule.epochs - self.epoch) * self.steps_per_epoch
        total = self.trainer.step_count + left
        self.progress = TrainingProgress(console if fabric.is_global_zero else None, total, self.trainer.step_count)
        self.log = MetricsLog(run, self.trainer.step_count) if fabric.is_global_zero else None
        self.meter = LossMeter()
        self._clock = time.monotonic()

    def fit(self) -> nn.Module:
        """Train, and return the detector to use: the average if the recipe keeps one.

        Raises:
            RunError: the loss is not finite, the disk is full, Ctrl-C, one image is too small a batch, a loader process
                is killed, or a class of the user's own fails; says how to resume.
            DataError: an image cannot be read; says how to resume.
        """
        try:
            with interruptible() as self.check_interrupt, lost_workers():
                self._run_epochs()
        except KeyboardInterrupt:
            raise RunError(f"interrupted. {self._how_to_resume()}") from None
        except Exception as error:
            if (explained := self._explained(error)) is None:
                raise
            raise explained from error
        finally:
            self._close()
        return self.trainer.evaluated

    def _run_epochs(self) -> None:
        """Train, evaluate and save until the last epoch is done."""
        with self.progress:
            for epoch in range(self.epoch, self.recipe.schedule.epochs):
                seed_everything(self.recipe.train.seed, epoch, self.fabric.global_rank)
                self._train(epoch)
                best = self._evaluate(epoch)
                self._save(epoch + 1, best)
                self.epoch = epoch + 1

    def _explained(self, error: Exception) -> BoxwrightError | None:
        """Return an error that says in one sentence what the user can do; None where it is our own fault."""
        how = self._how_to_resume()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            return RunError(f"cannot write to {self.run.path}: {error.strerror}. {how}")
        if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):
            return RunError(
                "batch norm cannot learn from a batch of one image in which a feature level is one cell: raise "
                f"data.batch_size, data.size or the number of training images. {how}"
            )
        if isinstance(error, DataError):
            return DataError(f"{error}; or leave such images out with --skip-bad. {how}")
        if isinstance(error, BoxwrightError):
            return type(error)(f"{error}. {how}")
        said = raised_by(error, self.recipe.model_dump(mode="json"))
        return RunError(f"{said}. {how}") if said else None

    def _how_to_resume(self) -> str:
        """Say which epoch is safe and how to resume."""
        folder = shlex.quote(str(self.run.whole or self.run.path))
        if self.epoch == 0:
            return f"No epoch has finished; start again with: boxwright train --resume {folder}"
        return f"The checkpoint of epoch {self.epoch} is safe; resume with: boxwright train --resume {folder}"

    def _close(self) -> None:
        """Close the log."""
        if self.log is not None:
            with suppress(OSError):  # on a full disk, which has been reported already
                self.log.close()

    def _train(self, epoch: int) -> None:
        trainer = self.trainer
        trainer.detector.train()
        set_epoch(trainer.detector, epoch)
        batches = (batch.to(self.fabric.device, non_blocking=True) for batch in self.loader.epoch(epoch))
        for index, group in enumerate(islice(grouped(batches, self.accumulate), self.steps_per_epoch)):
            self.check_interrupt()
            result = trainer.step(group)
            self.guard.observe(trainer.step_count - 1, group, result.bad)
            self.meter.add(result)
            if trainer.step_count % LOG_EVERY == 0 or index + 1 == self.steps_per_epoch:
                self._report(epoch)
        self.guard.settle()

    def _report(self, epoch: int) -> None:
        images = self.meter.images * self.fabric.world_size
        losses = self.meter.read()
        now = time.monotonic()
        speed = images / max(now - self._clock, 1e-9)
        self._clock = now
        step, lr = self.trainer.step_count, max(group["lr"] for group in self.trainer.optimizer.param_groups)
        self.progress.step(self._title(epoch), step, losses, lr, speed)
        if self.log is not None:
            total = {"loss": sum(losses.values()), **losses} if losses else {}
            rest = {"lr": lr, "images_per_s": speed, "skipped_steps": self.guard.skipped}
            self.log.write("train", step, {"epoch": epoch + 1, **total, **rest})

    def _evaluate(self, epoch: int) -> bool:
        """Measure the detector where it is due; return whether it is the best so far."""
        last = epoch + 1 == self.recipe.schedule.epochs
        if self.evaluate is None or not (last or (epoch + 1) % self.recipe.train.eval_every == 0):
            return False
        metrics = self.evaluate(self.trainer.evaluated)
        self.metrics = dict(metrics.stats)
        self._clock = time.monotonic()
        score = self.metrics.get("AP")
        best = score is not None and (self.best is None or score > self.best)
        if best:
            self.best = score
            self._predictions = metrics.predictions
        shown = "  ".join(
            f"{name} {self.metrics[name]:.3f}" for name in ("AP", "AP50") if self.metrics.get(name) is not None
        )
        self.progress.line(f"{self._title(epoch)}  {shown or 'AP n/a'}" + ("  (best)" if best else ""))
        if self.log is not None:
            classes = {entry.name: entry.ap for entry in metrics.per_class}
            values = {"epoch": epoch + 1, **self.metrics, "AP_of_class": classes}
            self.log.write("eval", self.trainer.step_count, values)
        return best

    def _save(self, epoch: int, best: bool) -> None:
        """Write the checkpoint of the epoch; `last.pt` last, since a resume goes by it and repeats what is missing."""
        failure = ""
        if self.fabric.is_global_zero:
            try:
                if best:
                    write_text(self.run.path / "predictions.json", json.dumps([*self._predictions]))
                weights = self.trainer.evaluated.state_dict()
                for name in ("best", "last") if best else ("last",):
                    save_weights(self.run.weights_file(name), weights, self._header(epoch))
                own = {"epoch": epoch, "best": self.best, "metrics": self.metrics, "skipped": self.guard.skipped}
                save_state(self.run.state_file, self.trainer.state() | own)
            except (OSError, RuntimeError) as error:  # torch and safetensors wrap the system's error
                reason = getattr(error, "strerror", None) or error
                failure = f"cannot write a checkpoint to {self.run.path}: {reason}"
        if failure := self.fabric.broadcast(failure):
            raise RunError(failure)

    def _header(self, epoch: int) -> dict[str, Any]:
        return {
            "recipe": dump_recipe(self.recipe),
            "classes": self.classes,
            "epoch": epoch,
            "step": self.trainer.step_count,
            "metrics": self.metrics,
        }

    def _resume(self) -> None:
        state = self.run.state()
        if state is None:
            if (done := self.run.epochs_done) > 1:  # a kill may have come between the two files of the first epoch
                raise RunError(
                    f"{self.run.state_file} is missing, without which a run of {counted(done, 'epoch')} cannot go on: "
                    "start a new one with another --output"
                )
            return
        try:
            self.trainer.load_state(state)
        except (RuntimeError, ValueError, KeyError) as error:
            raise RunError(
                f"{self.run.state_file} does not fit the recipe or the classes: {error}. The run is as it was; what "
                "changes the network or the kind of optimiser needs a new run"
            ) from error
        self.epoch, self.best, self.metrics = state["epoch"], state["best"], state["metrics"]
        self.guard.skipped = state["skipped"]
        # none, unless batch size or number of images have changed: the schedule is one of epochs
        offset = self.epoch * self.steps_per_epoch - self.trainer.step_count
        self.trainer.schedule = replace(self.trainer.schedule, offset=offset)

    def _title(self, epoch: int) -> str:
        return f"epoch {epoch + 1}/{self.recipe.schedule.epochs}"
