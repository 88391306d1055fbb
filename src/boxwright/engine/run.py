"""The folder of a run: what was asked for, where it ran, what it measured, what it learned."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import torch

from boxwright.engine.checkpoint import load_state, load_weights, read_header
from boxwright.errors import RunError
from boxwright.files import write_text
from boxwright.recipes import Recipe, dump_recipe, load_recipe
from boxwright.recipes.own import own_files

__all__ = ["Run", "environment"]

_PACKAGES = ("boxwright", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "faster-coco-eval")


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder.

    `recipe.yaml` (resolved), `classes.json`, `data.json` (what to open), `environment.json` (where it ran and which
    files the classes of yours came from: a list, one entry for the start and one for every resume), `metrics.jsonl`,
    `tensorboard/`, `checkpoints/{last,best}.safetensors` (weights to use: the average if the recipe keeps one, with
    recipe and class names in the header), `checkpoints/last.pt` (everything that a resume needs). A run in several
    steps has the earlier ones in `steps/`, with metrics and checkpoints alone.

    Attributes:
        path: the folder.
        whole: folder of the run that this is a step of; None for a whole run.
    """

    path: Path
    whole: Path | None = None

    @classmethod
    def create(
        cls, path: Path, recipe: Recipe, classes: Sequence[str], data: Mapping[str, Any], world_size: int = 1
    ) -> Self:
        """Make the folder, or bring the description in an existing one up to date."""
        run = cls(path)
        try:
            write_text(path / "recipe.yaml", dump_recipe(recipe))
            write_text(path / "classes.json", json.dumps(list(classes), ensure_ascii=False, indent=1))
            write_text(path / "data.json", json.dumps(dict(data), indent=1))
            sessions = run._json("environment.json") if (path / "environment.json").exists() else []
            own = own_files(recipe.model_dump(mode="json"))
            sessions += [environment() | {"processes": world_size, "own": own}]
            write_text(path / "environment.json", json.dumps(sessions, indent=1))
        except OSError as error:
            raise RunError(f"cannot write to the run folder {path}: {error.strerror}") from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an existing run folder.

        Raises:
            RunError: the folder is not one of a run.
        """
        run = cls(Path(path))
        if not (run.path / "recipe.yaml").is_file():
            raise RunError(f"{path} is not a run folder: it holds no recipe.yaml")
        return run

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return load_recipe(self.path / "recipe.yaml")

    @property
    def classes(self) -> list[str]:
        """Class names, by label."""
        return list(self._json("classes.json"))

    @property
    def data(self) -> dict[str, Any]:
        """Arguments that opened the data set."""
        return dict(self._json("data.json"))

    def moved(self, path: str | Path) -> RunError:
        """Return the error about a data set that is not where the run has it."""
        return RunError(f"there is no {path}, where {self.path} has its data: say where it is now with --data PATH")

    @property
    def environments(self) -> list[dict[str, Any]]:
        """Where it ran: at the start and at every resume."""
        return list(self._json("environment.json"))

    @property
    def weights_path(self) -> Path:
        """The best weights, else the last.

        Raises:
            RunError: no epoch has finished yet.
        """
        for name in ("best", "last"):
            if (path := self.weights_file(name)).is_file():
                return path
        raise RunError(f"{self.path} holds no checkpoint yet: no epoch has finished")

    def edited(self, recipe: Recipe) -> list[str]:
        """Files of the user's own classes in a recipe that are not what they were in the last session."""
        before = self.environments[-1].get("own", {})
        now = own_files(recipe.model_dump(mode="json"))
        return sorted({own["file"] for path, own in now.items() if own["sha256"] != before.get(path, own)["sha256"]})

    def weights_file(self, name: str) -> Path:
        """Path of the weights `last` or `best`."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    @property
    def state_file(self) -> Path:
        """Path of the trainer state."""
        return self.path / "checkpoints" / "last.pt"

    def weights(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the best weights, else the last, with their header."""
        return load_weights(self.weights_path)

    def state(self) -> dict[str, Any] | None:
        """Return the trainer state of the last finished epoch, None before the first."""
        return load_state(self.state_file) if self.state_file.exists() else None

    @property
    def epochs_done(self) -> int:
        """Epochs behind the last checkpoint."""
        path = self.weights_file("last")
        return int(read_header(path).get("epoch", 0)) if path.is_file() else 0

    @property
    def finished(self) -> bool:
        """Whether the last checkpoint is that of the last epoch."""
        return self.epochs_done >= self.recipe.schedule.epochs

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the records of `metrics.jsonl`; a last line cut short by a killed process is left out."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return

    def predictions(self) -> list[dict[str, Any]]:
        """Return what the best checkpoint found in the validation images, in COCO's results format.

        Raises:
            RunError: the run has not been evaluated yet, or there was nothing to find.
        """
        return list(self._json("predictions.json"))

    def rewind(self, step: int) -> None:
        """Drop the metrics of steps after `step`, which a resume will take again."""
        kept = [json.dumps(record) + "\n" for record in self.metrics() if record["step"] <= step]
        write_text(self.path / "metrics.jsonl", "".join(kept))

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {self.path / name}: {error}") from error


def environment() -> dict[str, Any]:
    """Describe machine, versions, command and the commit of the working directory, if it is a repository."""
    return {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        command = ["git", "rev-parse", "HEAD"]
        answer = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
