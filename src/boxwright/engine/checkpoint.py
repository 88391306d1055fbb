"""Checkpoints that are whole or absent: weights for everybody (safetensors), trainer state for a resume (torch.save).

Each file is complete in itself and switches by one rename, so a process killed at any moment leaves files that load.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from boxwright.errors import RunError
from boxwright.files import atomic_path

__all__ = ["load_state", "load_weights", "read_header", "save_state", "save_weights"]

_HEADER = "boxwright"


def save_weights(path: Path, state: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write weights as safetensors.

    Args:
        path: the file.
        state: a detector's `state_dict()`.
        header: JSON values that travel in the file: recipe, class names, epoch, metrics.
    """
    # cloned, because safetensors refuses tensors that share memory and strides that are not contiguous
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    }
    with atomic_path(path) as temporary:
        # not save_file, which makes files that only their owner may read
        temporary.write_bytes(save(tensors, metadata={_HEADER: json.dumps(header)}))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights and header written by `save_weights`; the header is empty for safetensors files of others.

    Raises:
        RunError: the file is missing or not a safetensors file.
    """
    header = read_header(path)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (no mapping)


def read_header(path: Path) -> dict[str, Any]:
    """Read only the header of a weight file.

    Raises:
        RunError: the file is missing or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            return header
    except FileNotFoundError as error:
        raise RunError(f"there is no weight file {path}") from error
    except (SafetensorError, OSError, ValueError) as error:
        damaged = path.suffix == ".safetensors"
        what = "it is damaged, take another" if damaged else "give a run folder, or a .safetensors file of one"
        raise RunError(f"{path} is not a readable safetensors file ({error}): {what}") from error


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write trainer state: tensors, numbers, strings, and containers of them."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # the system's own error, which torch hides
                raise error.__context__ from None
            raise


def load_state(path: Path) -> dict[str, Any]:
    """Read trainer state without running code from the file.

    Raises:
        RunError: the file is missing or broken.
    """
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise RunError(f"there is no trainer state {path}") from error
    except Exception as error:  # torch.load documents no narrower set
        raise RunError(
            f"{path} is not a readable trainer state ({error}): it is damaged, so that the run cannot go on; the "
            "weights beside it can be used, and a new run needs another --output"
        ) from error
