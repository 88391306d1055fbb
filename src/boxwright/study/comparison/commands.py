"""Commands that repeat what a report shows."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boxwright.engine import Run

__all__ = ["compare_command", "shown_path", "train_command"]


def train_command(run: Run) -> str:
    """How to train the same again; the resolved recipe holds the seed."""
    words = ["train", "--recipe", f"{shown_path(run.path)}/recipe.yaml", *_data_words(run.data), "--output", "repeated"]
    return shlex.join(["boxwright", *words])


def compare_command(
    data: Mapping[str, Any],
    recipes: Sequence[str | Path],
    seeds: int,
    overrides: Sequence[str],
    budget: float | None,
    output: str | Path,
) -> str:
    """How to repeat or resume the same comparison; `data` is as a run keeps it."""
    words = ["compare", *_data_words(data), "--recipes", ",".join(map(str, recipes)), "--seeds", str(seeds)]
    words += [word for override in overrides for word in ("--set", override)]
    words += [] if budget is None else ["--budget", f"{budget:g}s"]
    return shlex.join(["boxwright", *words, "--output", shown_path(output)])


def shown_path(path: str | Path) -> str:
    """A path as it reads from the working directory."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _data_words(data: Mapping[str, Any]) -> list[str]:
    """The options that say which data set, from the arguments that opened it."""
    words = ["--data", shown_path(data["path"])]
    words += [] if data.get("format") is None else ["--format", data["format"]]
    words += [] if data.get("classes") is None else ["--classes", ",".join(data["classes"])]
    words += [word for name, path in (data.get("splits") or {}).items() for word in ("--split", f"{name}={path}")]
    words += [] if data.get("images") is None else ["--images", shown_path(data["images"])]
    words += [] if data.get("one_based") is None else ["--one-based" if data["one_based"] else "--zero-based"]
    return words + (["--skip-bad"] if data.get("skip_bad") else [])
