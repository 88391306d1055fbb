"""A trained detector from its run folder or weight file."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.engine.checkpoint import load_weights
from boxwright.engine.device import memory_format
from boxwright.engine.run import Run
from boxwright.errors import RecipeError, RunError
from boxwright.models import DenseDetector
from boxwright.recipes import Recipe, build_detector, parse_recipe

__all__ = ["find_weights", "load", "load_with_recipe"]


def load(source: str | Path, *, device: torch.device | str = "cpu") -> DenseDetector:
    """Load a trained detector, ready for `detections = detector(images)`; its `class_names` say what labels mean.

    The weights are the averaged ones where the recipe keeps an average.

    Args:
        source: a run folder (its best checkpoint, else its last) or one of its `.safetensors` files, which may have
            been moved anywhere: recipe and class names travel in it.
        device: where the detector is put.

    Raises:
        RunError: there is nothing to load, it is broken, or weights and recipe do not fit.
    """
    return load_with_recipe(source, device=device)[0]


def load_with_recipe(source: str | Path, *, device: torch.device | str = "cpu") -> tuple[DenseDetector, Recipe]:
    """Load a trained detector as `load` does, and the recipe that it was trained by."""
    path = find_weights(source)
    state, header = load_weights(path)
    recipe = _recipe(path, header)
    detector = build_detector(recipe, header["classes"], pretrained=False)
    _fill(detector, state, path)
    device = torch.device(device)
    return detector.to(device).to(memory_format=memory_format(device)).eval(), recipe


def find_weights(source: str | Path) -> Path:
    """Return the weight file of a run folder, or the file itself.

    Raises:
        RunError: neither exists, or the run has no checkpoint yet.
    """
    path = Path(source)
    if path.is_dir():
        return Run.open(path).weights_path
    if not path.exists():
        raise RunError(f"there is no run folder or weight file {path}")
    return path


def _recipe(path: Path, header: dict[str, Any]) -> Recipe:
    if "recipe" not in header or "classes" not in header:
        raise RunError(f"{path} does not say which recipe and classes it was trained with; is it of boxwright?")
    try:
        return parse_recipe(header["recipe"], str(path))
    except RecipeError as error:
        why = "The file was written by another version of boxwright, or trained with a part that is not of boxwright"
        raise RunError(f"{error}. {why}") from error


def _fill(detector: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load weights strictly, and say in one sentence where they do not fit."""
    wanted = detector.state_dict()
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is not in the network" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(tensor.shape)}, the network needs {tuple(wanted[name].shape)}"
        for name, tensor in state.items()
        if name in wanted and wanted[name].shape != tensor.shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise RunError(f"{path} does not fit the detector of its recipe: {problems[0]}{more}")
    detector.load_state_dict(state)
