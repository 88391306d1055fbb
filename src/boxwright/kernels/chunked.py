"""Row sums of a modulated cross-entropy in little memory: loss and gradient at once, a cache-sized chunk at a time."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from boxwright.kernels.modulated import (
    Modulator,
    background_loss_and_gradient,
    loss_and_gradient,
    modulated_cross_entropy,
)
from boxwright.kernels.tracing import is_traced

__all__ = ["dense_targets", "modulated_row_sums"]

# elements per thread at least, as many as PyTorch gives one; up to twice as many where memory allows, since eight
# buffers of twice the size stay close to a core and every operation starts and waits for all threads
CHUNK = 2**15
# the chunks' share of the logits' bytes: a dozen float32 buffers of this many entries are a fifth of the logits
SHARE = 2**8


def modulated_row_sums(
    logits: Tensor, targets: Tensor, scores: Tensor | None, modulator: Modulator, factor: Tensor | None = None
) -> Tensor:
    """(…) sums over the last dimension of the modulated cross-entropy of (…, C) logits, in float32 or float64.

    Needs, beside the logits, memory for their gradient and nothing else of that size: the gradient is computed in
    closed form together with the loss. The backward pass only scales it, and where what comes from above is 1 (the sum
    of rows whose weights are in `factor`) not even that. Not differentiable by targets or factor. Compiled code
    takes the plain form, which the compiler fuses by itself, and so do `torch.func` and a gradient that is to be
    differentiated again.

    Args:
        logits: (…, C) floating point; half precision is upcast chunk by chunk.
        targets: (…) integer labels, negative for background, or (…, C) floating point targets in 0..1.
        scores: (…) target of the labelled class (1 where None); only with labels.
        modulator: the member of the family.
        factor: (…) of each row, 1 where None.
    """
    if is_traced():
        return _plain_row_sums(logits, targets, scores, modulator, factor)
    sums: Tensor = _RowSums.apply(logits, targets, scores, modulator, factor)
    return sums


def _plain_row_sums(
    logits: Tensor, targets: Tensor, scores: Tensor | None, modulator: Modulator, factor: Tensor | None
) -> Tensor:
    inputs = logits.to(torch.promote_types(logits.dtype, torch.float32))
    t, positive = dense_targets(inputs, targets, scores)
    rows = modulated_cross_entropy(inputs, t, positive, modulator).sum(-1)
    return rows if factor is None else rows * factor.detach()


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
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, scores: Tensor | None, modulator: Modulator, factor: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(logits, targets, scores, factor)
        ctx.modulator = modulator
        # rounding to float16 before the upstream factor (a loss scale) would lose small gradients
        early = ctx.needs_input_grad[0] and logits.dtype != torch.float16
        ctx.gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device) if early else None
        sums = logits.new_empty(logits.shape[:-1], dtype=torch.promote_types(logits.dtype, torch.float32))
        _fill(logits, targets, scores, modulator, sums, ctx.gradient, factor)
        return sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, targets, scores, factor = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            sums = _plain_row_sums(logits, targets, scores, ctx.modulator, factor)
            return *torch.autograd.grad(sums, logits, upstream, create_graph=True), None, None, None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            # float16, or a second pass through a retained graph
            gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
            above = upstream if factor is None else upstream * factor
            _fill(logits, targets, scores, ctx.modulator, None, gradient, above)
        elif gradient.numel():
            _rescale(gradient, upstream)
        return gradient, None, None, None, None


def _rescale(gradient: Tensor, upstream: Tensor) -> None:
    """Multiply the rows of (…, C) by (…) in place, unless that is 1 everywhere."""
    if _fusible(gradient):
        from boxwright.kernels.fused import rescale

        with torch.cuda.device_of(gradient):  # Triton launches on the current device
            rescale(gradient.view(-1, gradient.shape[-1]), upstream.reshape(-1))
    elif not gradient.is_cpu or any(upstream.stride()) or upstream.view(-1)[0] != 1:
        gradient.mul_(upstream.unsqueeze(-1))


def _fusible(tensor: Tensor) -> bool:
    return tensor.is_cuda and tensor.dtype != torch.float64 and find_spec("triton") is not None


def _fill(
    logits: Tensor,
    targets: Tensor,
    scores: Tensor | None,
    modulator: Modulator,
    sums: Tensor | None,
    gradient: Tensor | None,
    factor: Tensor | None = None,
) -> None:
    """Write the row sums and the gradient, both times `factor` (…), into the tensors that are given."""
    classes = logits.shape[-1]
    if logits.numel() == 0:
        if sums is not None:
            sums.zero_()
        return
    x = logits.reshape(-1, classes)
    sparse = not targets.is_floating_point()
    t = targets.reshape(-1) if sparse else targets.reshape(-1, classes)
    s, f, out = (None if tensor is None else tensor.reshape(-1) for tensor in (scores, factor, sums))
    slopes = None if gradient is None else gradient.view(-1, classes)
    if _fusible(x):
        from boxwright.kernels.fused import fill

        with torch.cuda.device_of(x):
            fill(x, t, s, modulator, out, slopes, f)
        return
    least = CHUNK * max(2, torch.get_num_threads())
    step = max(1, min(max(x.nbytes // SHARE, least), 2 * least) // classes)
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        # in a function of its own, so that nothing of a chunk outlives it
        _fill_chunk(
            modulator, x[rows], t[rows], *[None if part is None else part[rows] for part in (s, f, out, slopes)]
        )


def _fill_chunk(
    modulator: Modulator,
    x: Tensor,
    t: Tensor,
    scores: Tensor | None,
    factor: Tensor | None,
    sums: Tensor | None,
    gradient: Tensor | None,
) -> None:
    """Write the row sums and the gradient, both times `factor`."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if t.is_floating_point():
        soft = t.to(wide.dtype)
        # 0 or 1, in a fifth of the time of a comparison
        loss, slope = loss_and_gradient(wide, soft, soft.sign(), modulator)
    else:
        loss, slope = _sparse(wide, t.unsqueeze(1), None if scores is None else scores.unsqueeze(1), modulator)
    if sums is not None:
        torch.sum(loss, 1, out=sums)
        if factor is not None:
            sums.mul_(factor)
    if gradient is not None:
        gradient.copy_(slope) if factor is None else torch.mul(slope, factor.unsqueeze(1), out=gradient)


def _sparse(x: Tensor, labels: Tensor, scores: Tensor | None, modulator: Modulator) -> tuple[Tensor, Tensor]:
    """Background everywhere, then the one labelled entry of each row put in its place."""
    loss, gradient = background_loss_and_gradient(x, modulator.background)
    index, positive = labels.clamp(min=0), labels >= 0
    entry = x.gather(1, index)
    t = torch.where(positive, 1.0 if scores is None else scores.to(x.dtype), torch.zeros_like(entry))
    for whole, part in zip((loss, gradient), loss_and_gradient(entry, t, positive, modulator.at(index)), strict=True):
        whole.scatter_(1, index, torch.where(positive, part, whole.gather(1, index)))
    return loss, gradient
