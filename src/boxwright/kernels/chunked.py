"""Row sums of a modulated cross-entropy in little memory: loss and gradient at once, a cache-sized chunk at a time."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from boxwright.kernels.modulated import (
    Modulator,
    background_loss_and_gradient,
    loss_and_gradient,
    modulated_cross_entropy,
)

__all__ = ["dense_targets", "modulated_row_sums"]

# elements per thread: four buffers of this size stay in a core's second-level cache
CHUNK = 2**15


def modulated_row_sums(logits: Tensor, targets: Tensor, scores: Tensor | None, modulator: Modulator) -> Tensor:
    """(…) sums over the last dimension of the modulated cross-entropy of (…, C) logits, in float32 or float64.

    Needs, beside the logits, memory for their gradient and nothing else of that size: the gradient is computed in
    closed form together with the loss and only scaled in the backward pass. Not differentiable twice, nor by the
    targets.
    Compiled code takes the plain form, which the compiler fuses by itself.

    Args:
        logits: (…, C) floating point; half precision is upcast chunk by chunk.
        targets: (…) integer labels, negative for background, or (…, C) floating point targets in 0..1.
        scores: (…) target of the labelled class (1 where None); only with labels.
        modulator: the member of the family.
    """
    if torch.compiler.is_compiling():
        inputs = logits.to(torch.promote_types(logits.dtype, torch.float32))
        t, positive = dense_targets(inputs, targets, scores)
        return modulated_cross_entropy(inputs, t, positive, modulator).sum(-1)
    sums: Tensor = _RowSums.apply(logits, targets, scores, modulator)
    return sums


def dense_targets(inputs: Tensor, targets: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor]:
    """(…, C) target and positive mask of labels and scores (or of targets that are dense already)."""
    if targets.is_floating_point():
        t = targets.detach().to(inputs.dtype)
        return t, t > 0
    positive = targets.unsqueeze(-1) == torch.arange(inputs.shape[-1], device=inputs.device)
    score = 1.0 if scores is None else scores.detach().to(inputs.dtype).unsqueeze(-1)
    return torch.where(positive, score, torch.zeros((), dtype=inputs.dtype, device=inputs.device)), positive


class _RowSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, scores: Tensor | None, modulator: Modulator) -> Tensor:
        ctx.save_for_backward(logits, targets, scores)
        ctx.modulator = modulator
        # rounding to half precision before the upstream factor (a loss scale) would lose small gradients
        early = ctx.needs_input_grad[0] and logits.dtype in (torch.float32, torch.float64)
        ctx.gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device) if early else None
        sums = logits.new_empty(logits.shape[:-1], dtype=torch.promote_types(logits.dtype, torch.float32))
        _fill(logits, targets, scores, modulator, sums, ctx.gradient)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is not None:
            return gradient.mul_(upstream.unsqueeze(-1)), None, None, None
        # half precision, or a second pass through a retained graph
        logits, targets, scores = ctx.saved_tensors
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        _fill(logits, targets, scores, ctx.modulator, None, gradient, upstream)
        return gradient, None, None, None


def _fill(
    logits: Tensor,
    targets: Tensor,
    scores: Tensor | None,
    modulator: Modulator,
    sums: Tensor | None,
    gradient: Tensor | None,
    upstream: Tensor | None = None,
) -> None:
    """Write the row sums and the gradient (times upstream) into the tensors that are given."""
    classes = logits.shape[-1]
    if logits.numel() == 0:
        if sums is not None:
            sums.zero_()
        return
    x = logits.reshape(-1, classes)
    if x.is_cuda and x.dtype != torch.float64 and find_spec("triton") is not None:
        from boxwright.kernels.fused import fill

        flat = [None if tensor is None else tensor.reshape(-1) for tensor in (scores, sums, upstream)]
        goal = targets.reshape(x.shape if targets.is_floating_point() else -1)
        fill(x, goal, flat[0], modulator, flat[1], None if gradient is None else gradient.view(x.shape), flat[2])
        return
    sparse = not targets.is_floating_point()
    t = targets.reshape(-1, 1) if sparse else targets.reshape(-1, classes)
    s = None if scores is None else scores.reshape(-1, 1)
    step = max(1, CHUNK * max(2, torch.get_num_threads()) // classes)
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        chunk = x[rows].to(torch.promote_types(x.dtype, torch.float32))
        if sparse:
            loss, slope = _sparse(chunk, t[rows], None if s is None else s[rows], modulator)
        else:
            soft = t[rows].to(chunk.dtype)
            loss, slope = loss_and_gradient(chunk, soft, soft > 0, modulator)
        if sums is not None:
            torch.sum(loss, 1, out=sums.view(-1)[rows])
        if gradient is not None:
            scaled = slope if upstream is None else slope.mul_(upstream.reshape(-1, 1)[rows])
            gradient.view(-1, classes)[rows] = scaled


def _sparse(x: Tensor, labels: Tensor, scores: Tensor | None, modulator: Modulator) -> tuple[Tensor, Tensor]:
    """Background everywhere, then the one labelled entry of each row put in its place."""
    loss, gradient = background_loss_and_gradient(x, modulator.background)
    index, positive = labels.clamp(min=0), labels >= 0
    entry = x.gather(1, index)
    t = torch.where(positive, 1.0 if scores is None else scores.to(x.dtype), torch.zeros_like(entry))
    for whole, part in zip((loss, gradient), loss_and_gradient(entry, t, positive, modulator.at(index)), strict=True):
        whole.scatter_(1, index, torch.where(positive, part, whole.gather(1, index)))
    return loss, gradient
