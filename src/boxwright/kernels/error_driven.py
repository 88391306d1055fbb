"""Error-driven updates of rankings: gradients that say by how much an order is wrong, at the price of a pointwise loss.

Every positive is ranked among the positives and against the background. A rule turns P scores and P soft counts of the
background above them into losses and into the update of every score; the kernel does what grows with the number of
logits: counting the background, and handing each entry its share of the update.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from boxwright.devices import widest
from boxwright.distributed import all_reduce_sum, world_size
from boxwright.errors import BoxwrightError
from boxwright.kernels.background import Background, narrow
from boxwright.kernels.entries import Entries, Scope
from boxwright.kernels.soft_count import Ramps

if TYPE_CHECKING:
    from boxwright.kernels.fused_ranking import FusedRanking

__all__ = ["Ranking", "Scope", "Update", "error_driven"]


class Ranking(NamedTuple):
    """What a rule sees: P positives in groups that are ranked apart.

    Attributes:
        scores: (P,) logits of the positives, in float32 or float64.
        quality: (P,) float64 what the caller gave for each, 1 where nothing.
        group: (P,) group of each; None where there is one.
        share: (P,) float64 weight of each in the loss: groups count alike, and so do the positives of one.
        above: (P,) float64 soft count of the positives above each, itself among them.
        quality_above: (P,) float64 sum of their qualities.
        background: (P,) float64 soft count of the background above each.
        ramps: around the scores.
    """

    scores: Tensor
    quality: Tensor
    group: Tensor | None
    share: Tensor
    above: Tensor
    quality_above: Tensor
    background: Tensor
    ramps: Ramps


class Update(NamedTuple):
    """What a rule says, for T losses.

    Attributes:
        losses: (T,) their values.
        positives: (T, P) gradient of each positive's score.
        background: (T, P) gradient that the background above a positive shares, per unit of its soft count.
        weights: (P,) what the caller wants to know of each positive; None for nothing.
    """

    losses: Tensor
    positives: Tensor
    background: Tensor
    weights: Tensor | None = None


Rule = Callable[[Ranking], Update]


class _State(NamedTuple):
    """What the backward pass needs: O(P), and whatever the background remembers."""

    background: Background
    ramps: Ramps
    update: Update
    own: slice
    factor: int

    def gradient(self, upstream: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """(R, C) gradient of the losses weighed by `upstream`."""
        with torch.inference_mode():
            weight = (torch.stack(list(upstream)).double() * self.factor).unsqueeze(1)
            lines = self.ramps.sums((weight * self.update.background).sum(0))
            positives = (weight * self.update.positives).sum(0)
            return self.background.gradient(lines, positives[self.own], dtype)


def _evaluate(
    inputs: Tensor, targets: Tensor, quality: Tensor | None, rule: Rule, delta: float, scope: Scope, remember: bool
) -> "tuple[Tensor, Tensor, _State | FusedRanking]":
    """Return the losses (T,), the weights of the priors (the targets' shape, or empty), and what backward needs."""
    if _fused(inputs):
        from boxwright.kernels.fused_ranking import evaluate

        return evaluate(inputs, targets, quality, rule.__name__.strip("_"), delta, scope, remember)
    # Nothing in here is differentiated, and many operations are so small that autograd's bookkeeping shows. What leaves
    # must be an ordinary tensor.
    with torch.inference_mode():
        losses, weights, state = _rank(inputs, targets, quality, rule, delta, scope, remember)
    return losses.clone(), weights.clone(), state


def _rank(
    inputs: Tensor, targets: Tensor, quality: Tensor | None, rule: Rule, delta: float, scope: Scope, remember: bool
) -> tuple[Tensor, Tensor, _State]:
    """Do what `_evaluate` says by torch's operations."""
    entries = Entries.of(inputs, targets, scope)
    scores = entries.scores()
    ones = torch.ones_like(scores, dtype=torch.float64)
    good = ones if quality is None else entries.at_positives(quality).double()
    group, own, factor, alone = entries.group(), slice(0, len(scores)), 1, scope == "image" or world_size() == 1
    if not alone:
        factor = world_size()
        (scores, good, *groups), own = _gather([scores, good] + ([] if group is None else [group]))
        group, ones = groups[0] if groups else None, torch.ones_like(good)
    share = _share(scores, group, entries.groups, apart=scope == "image")
    ramps = Ramps.around(scores, group, entries.groups, delta)
    background = Background(entries, ramps, remember)
    table, alarm = background.tally()
    if not alone:
        table = all_reduce_sum(table)
    positives = ramps.tally(ones[None] if quality is None else torch.stack([ones, good]))
    if background.with_positives:
        table -= positives[:, 0]
    # no ramp rises in the outer bins, and what lies there may be huge
    table[1].index_fill_(0, ramps.outer.view(-1), 0)
    counts = ramps.counts(torch.cat([table.unsqueeze(1), positives], 1))
    update = rule(Ranking(scores, good, group, share, counts[1], counts[-1], counts[0], ramps))
    weights = scores.new_empty(0)
    if update.weights is not None:
        weights = _at_priors(update.weights[own] * factor, entries, targets)
    # what is not a number among the background would else go unnoticed in the lowest bin
    losses = (update.losses + alarm).to(scores.dtype)
    return losses, weights, _State(background, ramps, update, own, factor)


def _share(scores: Tensor, group: Tensor | None, groups: int, apart: bool) -> Tensor:
    """(P,) float64 weight of each positive; groups lie `apart` where no two processes share one."""
    if group is None:
        return scores.new_full(scores.shape, 1 / max(len(scores), 1), dtype=torch.float64)
    members = torch.zeros(groups, dtype=torch.float64, device=scores.device)
    members.index_add_(0, group, torch.ones_like(scores, dtype=torch.float64))
    active = (members > 0).sum().double()
    if apart:
        active = all_reduce_sum(active) / world_size()
    return 1 / (members[group] * active)


def _at_priors(weights: Tensor, entries: Entries, targets: Tensor) -> Tensor:
    """Put weights (P,) to the places of the positives among the targets."""
    place = entries.positive // entries.logits.shape[1] if entries.sparse else entries.positive
    spread = torch.zeros(targets.numel(), dtype=entries.dtype, device=weights.device)
    return spread.index_copy_(0, place, weights.to(entries.dtype)).view(targets.shape)


def _fused(inputs: Tensor) -> bool:
    return inputs.is_cuda and find_spec("triton") is not None


def _gather(values: Sequence[Tensor]) -> tuple[list[Tensor], slice]:
    """Join 1-D tensors of all processes (all of a process equally long); say which part is this process's own."""
    rank, size = torch.distributed.get_rank(), len(values[0])
    sizes = values[0].new_zeros(world_size(), dtype=torch.int64)
    sizes[rank] = size
    ends = all_reduce_sum(sizes).cumsum(0).tolist()
    own = slice(ends[rank] - size, ends[rank])
    table = torch.zeros(len(values), ends[-1], dtype=torch.float64, device=values[0].device)
    table[:, own] = torch.stack(list(values))
    return [row.to(value.dtype) for row, value in zip(all_reduce_sum(table), values, strict=True)], own


class _ErrorDriven(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, targets: Tensor, quality: Tensor | None, rule: Rule, delta: float, scope: Scope
    ) -> tuple[Tensor, ...]:
        losses, weights, ctx.state = _evaluate(inputs, targets, quality, rule, delta, scope, ctx.needs_input_grad[0])
        ctx.save_for_backward(inputs)
        ctx.mark_non_differentiable(weights)
        return *losses.unbind(), weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors  # raises where the logits were changed in place
        return (
            ctx.state.gradient(upstream[:-1], inputs.dtype).view(inputs.shape),
            None,
            None,
            None,
            None,
            None,
        )


def error_driven(terms: int) -> Callable[[Rule], Callable[..., tuple[Tensor, ...]]]:
    """Make a loss of a rule with this many losses.

    The loss is called with inputs (…, C), integer labels (…) or qualities (…, C) as targets, a quality (…) of the
    labelled entries or None, δ and the scope; it returns the T losses of the rule, scalars, and its weights, in the
    targets' shape (0 where there is no positive; empty where the rule has none). Compiled code sees it as one operator,
    which makes the gradient of each loss together with the losses.
    """

    def decorate(rule: Rule) -> Callable[..., tuple[Tensor, ...]]:
        operator = _operator(rule, terms)

        def loss(
            inputs: Tensor, targets: Tensor, quality: Tensor | None, delta: float, scope: Scope
        ) -> tuple[Tensor, ...]:
            if widest(inputs.device) != torch.float64:
                raise BoxwrightError(
                    f"the ranking loss {rule.__name__.strip('_')} counts in float64, which {inputs.device.type} lacks: "
                    "train on a CPU or a CUDA GPU, or with another classification loss"
                )
            if torch.compiler.is_compiling():
                remember = torch.is_grad_enabled() and inputs.requires_grad
                losses, weights, _ = operator(inputs, targets, quality, delta, scope, remember)
                return *losses.unbind(), weights
            results: tuple[Tensor, ...] = _ErrorDriven.apply(inputs, targets, quality, rule, delta, scope)
            return results

        return loss

    return decorate


def _operator(rule: Rule, terms: int) -> Any:
    """Register the operator of a rule, whose shapes the compiler knows without running it."""

    @torch.library.custom_op(f"boxwright::{rule.__name__.strip('_')}", mutates_args=())
    def forward(
        inputs: Tensor, targets: Tensor, quality: Tensor | None, delta: float, scope: str, remember: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        losses, weights, state = _evaluate(inputs, targets, quality, rule, delta, cast(Scope, scope), remember)
        gradients = losses.new_empty(0, *inputs.shape)
        if remember:
            each = [one.unbind() for one in torch.eye(terms, device=losses.device)]
            gradients = torch.stack([state.gradient(one, losses.dtype).view(inputs.shape) for one in each])
        return losses, weights if len(weights) else losses.new_zeros(targets.shape), gradients

    @forward.register_fake
    def _(
        inputs: Tensor, targets: Tensor, quality: Tensor | None, delta: float, scope: str, remember: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(inputs.dtype, torch.float32)
        losses, weights = inputs.new_empty(terms, dtype=wide), inputs.new_empty(targets.shape, dtype=wide)
        return losses, weights, inputs.new_empty(terms if remember else 0, *inputs.shape, dtype=wide)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.dtype = inputs[0].dtype
        ctx.save_for_backward(output[2])

    def differentiate(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        weight = upstream.view(-1, *[1] * (gradients.ndim - 1))
        return narrow((weight * gradients).sum(0), ctx.dtype), None, None, None, None, None

    forward.register_autograd(differentiate, setup_context=keep)
    return forward
