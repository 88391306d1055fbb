"""Options that cannot be meant are refused where an assigner is made, not where it has trained on nothing."""

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

import torch

__all__ = ["check_options"]


def check_options(assigner: Any) -> None:
    """Check what the fields of the dataclasses here have in common.

    Raises:
        ValueError: a field is none of the choices that its annotation names, a `topk` is no whole number of at least
            1, or an IoU or the `ignore_threshold` no share.
    """
    if torch.compiler.is_compiling():  # what a trace makes is made of options that were checked before
        return
    for field in fields(assigner):
        name, value = field.name, getattr(assigner, field.name)
        choices = get_args(field.type) if get_origin(field.type) is Literal else (value,)
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
        if value is None and type(None) in get_args(field.type):
            continue
        if name.endswith("topk") and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if name.endswith(("_iou", "_floor")) and not 0 <= value <= 1:
            raise ValueError(f"{name} is an IoU from 0 to 1, got {value!r}")
        if name == "ignore_threshold" and not 0 <= value <= 1:
            raise ValueError(f"{name} is a share from 0 to 1, or None to ignore nothing, got {value!r}")
