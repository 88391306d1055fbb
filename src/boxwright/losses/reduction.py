"""What every loss shares: how elements become one number, and the checks at the door."""

from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from boxwright.counts import counted
from boxwright.kernels.tracing import is_traced

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "Reduction",
    "check_choice",
    "check_labels",
    "check_same_shape",
    "check_shape",
    "divisor",
    "reduce",
    "upcast",
    "upcast_pair",
    "weighted",
]

BACKGROUND: Final = -1
IGNORED: Final = -2

Reduction = Literal["none", "sum", "mean", "image"]


def reduce(
    loss: Tensor,
    reduction: Reduction,
    normalizer: Tensor | float | None = None,
    counted: Tensor | float | None = None,
) -> Tensor:
    """Reduce a (weighted) loss; the divisor is always visible and never zero.

    Args:
        loss: any shape; the first dimension is the image for "image".
        reduction: "none" leaves the loss as it is; "sum" adds everything; "mean" is the sum divided by `normalizer`;
            "image" adds everything but the first dimension and divides by `normalizer` only where one is given.
        normalizer: the divisor of "mean" and "image" (there also one per image), without gradient; 0 divides by 1, so
            that nothing over nothing is 0.
        counted: what "mean" divides by without a normalizer: how many elements are not ignored (default: all).

    Raises:
        ValueError: unknown reduction, a normalizer together with "none" or "sum", which would not use it, or one of
            several numbers.

    >>> reduce(torch.tensor([1.0, 2.0]), "mean", normalizer=4)
    tensor(0.7500)
    >>> reduce(torch.tensor([]), "mean")
    tensor(0.)
    """
    check_choice("reduction", reduction, get_args(Reduction))
    if normalizer is not None and reduction in ("none", "sum"):
        raise ValueError(f"reduction={reduction!r} does not use a normalizer; pass reduction='mean' or 'image'")
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if reduction == "image":
        images = loss.sum(dim=tuple(range(1, loss.ndim))) if loss.ndim > 1 else loss
        return images if normalizer is None else images / divisor(normalizer, images)
    if normalizer is None:
        normalizer = loss.numel() if counted is None else counted
    total = loss.sum()
    return total / divisor(normalizer, total)


def weighted(loss: Tensor, weight: Tensor | None) -> Tensor:
    """Multiply a loss by weights of its own shape, or of all its dimensions but the last (one weight per prior or box).

    Raises:
        ValueError: `weight` fits neither.
    """
    if weight is None:
        return loss
    shape = (*weight.shape, 1) if weight.ndim == loss.ndim - 1 else weight.shape
    if len(shape) != loss.ndim or any(w not in (1, n) for w, n in zip(shape, loss.shape, strict=True)):
        raise ValueError(f"weight has shape {tuple(weight.shape)}, which does not fit a loss of {tuple(loss.shape)}")
    return loss * weight.reshape(shape).to(loss.dtype)


def upcast(tensor: Tensor, name: str = "inputs") -> Tensor:
    """Turn half precision into float32 (float32 and float64 stay), so that sums and logarithms keep their digits.

    Raises:
        TypeError: the tensor, which the message calls `name`, is not floating point.
    """
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype} of shape {tuple(tensor.shape)}")
    if tensor.dtype == torch.float16:
        wide: Tensor = _SaturatingUpcast.apply(tensor)
        return wide
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def upcast_pair(inputs: Tensor, targets: Tensor, last: int | None = None) -> tuple[Tensor, Tensor]:
    """Return inputs and targets in the dtype that a loss of these inputs is computed in.

    Raises:
        TypeError: one is not floating point.
        ValueError: shapes differ, or the last dimension is not `last` where given.
    """
    check_same_shape(inputs, targets, last)
    wide = upcast(inputs)
    return wide, upcast(targets, "targets").to(wide.dtype)


class _SaturatingUpcast(torch.autograd.Function):
    """float16 to float32, with gradients that end at float16's largest value instead of at infinity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return tensor.to(torch.float32)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        largest = torch.finfo(torch.float16).max
        return gradient.clamp(-largest, largest).to(torch.float16)


def check_same_shape(inputs: Tensor, targets: Tensor, last: int | None = None) -> None:
    """Raise ValueError unless both have the same shape (and the last dimension is `last` where given)."""
    if inputs.shape != targets.shape:
        raise ValueError(
            f"inputs and targets must have the same shape, got {tuple(inputs.shape)} and {tuple(targets.shape)}"
        )
    if last is not None and (inputs.ndim == 0 or inputs.shape[-1] != last):
        raise ValueError(f"the last dimension must be {last}, got inputs of shape {tuple(inputs.shape)}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError naming the argument, the value and what it may be."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], *, shared: bool = False) -> None:
    """Raise ValueError unless the tensor has the shape, or where `shared` the end of it (the same for every image)."""
    found = tuple(tensor.shape)
    if found != shape[len(shape) - len(found) :] or (len(found) < len(shape) and not shared):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {found}")


def check_labels(labels: Tensor, least: int, classes: int, meaning: str = "") -> None:
    """Raise unless labels are integers in least … classes - 1; only on the CPU are values looked at, without waiting.

    Raises:
        TypeError: labels are not integers.
        ValueError: one is no class.
    """
    if labels.is_floating_point():
        raise TypeError(f"labels must be integers, got {labels.dtype} of shape {tuple(labels.shape)}")
    if labels.device.type != "cpu" or is_traced():
        return
    known = (labels >= least) & (labels < classes)
    try:
        torch._assert_async(known.all())  # unlike `if`, no synchronisation to those who count them
    except RuntimeError:
        unknown = labels[~known][0]
        raise ValueError(
            f"labels must be {meaning}0 to {classes - 1} for inputs of {counted(classes, 'class')}, got {unknown}"
        ) from None


def divisor(normalizer: Tensor | float, loss: Tensor) -> Tensor | float:
    """Return what a normalizer divides a loss of one number (or of one per image) by: itself, or 1 where it is 0.

    Raises:
        ValueError: the normalizer is a negative number, or a tensor that is neither a single number nor of the loss's
            shape.
    """
    if not isinstance(normalizer, Tensor):
        if normalizer < 0:
            raise ValueError(f"normalizer must not be negative, got {normalizer}")
        return normalizer or 1.0
    if normalizer.shape not in ((), loss.shape):
        raise ValueError(f"normalizer must be a single number, got one of shape {tuple(normalizer.shape)}")
    return torch.where(normalizer > 0, normalizer, 1).detach().to(loss.dtype)
