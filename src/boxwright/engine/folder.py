"""Which folder a training works in, and that it alone works there."""

import itertools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from lightning_fabric import Fabric

from boxwright.engine.run import Run
from boxwright.errors import RunError
from boxwright.files import lock
from boxwright.recipes import Recipe, load_recipe

__all__ = ["RUNS", "FolderLock", "new_folder", "refuse_taken", "run_to_resume", "same_recipe", "together"]

RUNS = Path("runs")  # where new runs go, below the working directory


class FolderLock:
    """Keeps trainings of other processes out of a run folder, from `take` to the end of its block.

    The system lifts the lock when the first process of the training dies, however it dies. Where it knows no locks
    (some file systems of clusters do not), that is said and the training goes on without.

    Args:
        fabric: launched.
        folder: of the run.
        say: called with a line where there is no lock.
    """

    def __init__(self, fabric: Fabric, folder: Path, say: Callable[[str], None]) -> None:
        self.fabric, self.folder, self.say = fabric, folder, say
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def take(self) -> None:
        """Take the lock, for all processes of the training; each of them must call this.

        Raises:
            RunError: another training has it.
        """
        with together(self.fabric):
            if self.fabric.is_global_zero:
                self._take()

    def _take(self) -> None:
        path = self.folder / ".lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+", encoding="utf-8")  # what the other has written there stays
            lock(self._file)
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
            self._file.flush()
        except BlockingIOError:
            who = path.read_text(encoding="utf-8") or "another process"
            raise RunError(
                f"{self.folder} is being trained by {who}: let that end or stop it, or train in another folder "
                "with --output"
            ) from None
        except OSError as error:
            self.say(f"no lock on {self.folder} ({error.strerror}): let no other process train there meanwhile")


@contextmanager
def together(fabric: Fabric) -> Iterator[None]:
    """Raise a `RunError` of the first process in all of them, where the others would wait for it."""
    failure = ""
    try:
        yield
    except RunError as error:
        failure = str(error)
    if failure := fabric.broadcast(failure):
        raise RunError(failure)


def run_to_resume(
    output: str | Path | None,
    resume: str | Path | None,
    recipe: Recipe | str | Path | None,
    data: str | Path | None,
) -> Run | None:
    """Find the run to resume, None for a new one."""
    if resume is None:
        return None
    if str(resume) != "auto":
        return Run.open(resume)
    if output is not None:
        return Run.open(output) if (Path(output) / "recipe.yaml").is_file() else None
    name = _name(recipe)
    for file in sorted(RUNS.glob("*/recipe.yaml"), key=lambda file: file.stat().st_mtime, reverse=True):
        run = Run.open(file.parent)
        of_recipe = name is None or run.recipe.name == name
        of_data = data is None or run.data["path"] == str(Path(data).absolute())
        if of_recipe and of_data and not run.finished:
            return run
    return None


def _name(recipe: Recipe | str | Path | None) -> str | None:
    return recipe.name if isinstance(recipe, Recipe) else None if recipe is None else load_recipe(recipe).name


def same_recipe(run: Run, recipe: Recipe | str | Path | None) -> None:
    """Refuse to resume a run with a recipe of another name."""
    if (name := _name(recipe)) not in (None, run.recipe.name):
        raise RunError(
            f"{run.path} is a run of {run.recipe.name}, not of {name}; leave --recipe out, use --set instead"
        )


def new_folder(output: str | Path | None, recipe: Recipe) -> Path:
    """Choose the folder of a new run, which must not hold one yet."""
    if output is not None:
        refuse_taken(Path(output))
        try:
            str(output).encode()
        except UnicodeEncodeError:
            raise RunError(f"TensorBoard cannot write to {str(output)!r}, no UTF-8: choose another --output") from None
        return Path(output)
    names = (recipe.name if number == 1 else f"{recipe.name}-{number}" for number in itertools.count(1))
    return next(folder for folder in map(RUNS.joinpath, names) if not folder.exists())


def refuse_taken(folder: Path) -> None:
    """Raise `RunError` where a run is."""
    if (folder / "recipe.yaml").exists():
        raise RunError(f"{folder} holds a run already: choose another --output, or --resume {folder}")
