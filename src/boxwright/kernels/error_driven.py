"""Error-driven updates of rankings: gradients that say by how much an order is wrong, at the price of a pointwise loss.

Every positive is ranked among the positives and against the background. A rule turns P scores and P soft counts of the
background above them into losses and into the update of every score; the kernel does what grows with the number of
logits: counting the background, and handing each entry its share of the update.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from boxwright.distributed import all_reduce_sum, world_size
from boxwright.kernels.soft_count import Ramps

__all__ = ["Ranking", "Scope", "Update", "error_driven"]

Scope = Literal["batch", "class", "image"]

# small enough for the second-level cache and for every operation on it to stay on its thread
CHUNK = 2**15
# what a device without such caches takes at once
MUCH = 2**24
# fewer are not worth a thread
PIECES_PER_THREAD = 8
FEW_BINS = 512
IGNORED = -2


class Ranking(NamedTuple):
    """What a rule sees: P positives in G groups that are ranked apart.

    Attributes:
        scores: (P,) logits of the positives, in float32 or float64.
        quality: (P,) float64 what the caller gave for each, 1 where nothing.
        group: (P,) group of each.
        share: (P,) float64 weight of each in the loss: groups count alike, and so do the positives of one.
        background: (P,) float64 soft count of the background above each.
        ramps: around the scores.
    """

    scores: Tensor
    quality: Tensor
    group: Tensor
    share: Tensor
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


@dataclass(frozen=True, slots=True, eq=False)
class _Entries:
    """Logits as (R, C) with what each is: positive, background or ignored.

    Attributes:
        logits: (R, C), detached.
        targets: (R,) labels, or (R, C) qualities: positive, 0 for background, negative for ignored.
        positive: (P,) flat index of the positives, ascending.
        ignored: ascending rows that are ignored; empty where targets are dense.
        groups: how many groups there are here.
        scope: what makes a group.
        rows_per_image: R over the number of images.
    """

    logits: Tensor
    targets: Tensor
    positive: Tensor
    ignored: Tensor
    groups: int
    scope: Scope
    rows_per_image: int

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor, scope: Scope) -> "_Entries":
        columns = inputs.shape[-1]
        sparse = targets.ndim < inputs.ndim
        if not sparse and scope == "batch":
            columns = 1
        logits = inputs.detach().reshape(-1, columns)
        goal = targets.detach().reshape(-1) if sparse else targets.detach().reshape(-1, columns)
        if sparse:
            rows = (goal >= 0).nonzero().view(-1)
            positive = rows * columns + goal[rows]
            ignored = (goal == IGNORED).nonzero().view(-1)
        else:
            positive = _positive(goal.reshape(-1))
            ignored = positive[:0]
        groups = {"batch": 1, "class": columns, "image": len(inputs)}[scope] or 1
        return cls(logits, goal, positive, ignored, groups, scope, len(logits) // max(len(inputs), 1) or 1)

    @property
    def sparse(self) -> bool:
        return self.targets.ndim == 1

    @property
    def dtype(self) -> torch.dtype:
        return torch.promote_types(self.logits.dtype, torch.float32)

    def group(self, entries: Tensor) -> Tensor:
        """Return the group of entries given by flat index."""
        columns = self.logits.shape[1]
        if self.scope == "batch":
            return torch.zeros_like(entries)
        return entries % columns if self.scope == "class" else entries // (columns * self.rows_per_image)

    def groups_of(self, rows: slice) -> Tensor:
        """Group of each entry of some rows, int32, broadcastable to (r, C)."""
        device = self.logits.device
        if self.scope == "class":
            return torch.arange(self.groups, dtype=torch.int32, device=device)
        row = torch.arange(rows.start, min(rows.stop, len(self.logits)), dtype=torch.int32, device=device)
        return (row // self.rows_per_image).unsqueeze(1)

    def base(self, rows: slice, cells: int) -> Tensor | None:
        """First cell of each entry's group; None where there is one."""
        return None if self.scope == "batch" else self.groups_of(rows) * cells

    def chunks(self) -> list[slice]:
        """Slices of rows, about `CHUNK` entries each, fewer where buffers would outweigh the logits."""
        chunk = min(CHUNK, max(CHUNK // 4, self.logits.numel() // 8)) if self.logits.is_cpu else MUCH
        step = max(1, chunk // max(self.logits.shape[1], 1))
        return [slice(start, start + step) for start in range(0, len(self.logits), step)] if self.logits.numel() else []


def _positive(targets: Tensor, block: int = 512) -> Tensor:
    """Ascending indices of the positive entries of (N,): looks closely only at the few blocks that hold any."""
    whole = len(targets) // block * block
    blocks = targets[:whole].view(-1, block)
    hit = (blocks.amax(1) > 0).nonzero().view(-1)
    inside = (blocks[hit] > 0).nonzero()
    rest = (targets[whole:] > 0).nonzero().view(-1) + whole
    return torch.cat([hit[inside[:, 0]] * block + inside[:, 1], rest])


def _spread(work: Callable[[list[Any]], Any], pieces: list[Any]) -> list[Any]:
    """Divide pieces among threads, always in the same way; operations on a chunk are too small to divide themselves."""
    workers = min(torch.get_num_threads(), -(-len(pieces) // PIECES_PER_THREAD))
    shares = [pieces[worker::workers] for worker in range(workers)]
    if workers <= 1:
        return [work(share) for share in shares]
    with ThreadPoolExecutor(workers - 1) as pool:
        others = [pool.submit(work, share) for share in shares[1:]]
        return [work(shares[0]), *(other.result() for other in others)]


@dataclass(slots=True, eq=False)
class _State:
    """What the backward pass needs: O(P), and the bin of every entry where it fits the gradient's own memory."""

    entries: _Entries
    ramps: Ramps
    update: Update
    own: slice
    factor: int
    memory: Tensor | None
    pieces: list["_Piece"]

    @staticmethod
    def divide(entries: _Entries) -> list["_Piece"]:
        """Divide the entries into chunks of rows, each with its positives and ignored rows counted from its start."""
        chunks = entries.chunks()
        columns = entries.logits.shape[1]
        starts = entries.positive.new_tensor([*(chunk.start for chunk in chunks), len(entries.logits)])
        positive = torch.searchsorted(entries.positive, starts * columns).tolist()
        ignored = torch.searchsorted(entries.ignored, starts).tolist()
        return [
            _Piece(
                chunk,
                entries.positive[positive[place] : positive[place + 1]] - chunk.start * columns,
                entries.ignored[ignored[place] : ignored[place + 1]] - chunk.start,
            )
            for place, chunk in enumerate(chunks)
        ]

    def locate(self, piece: "_Piece", buffers: "_Buffers") -> tuple[Tensor, Tensor]:
        """Return the logits of a chunk and their bins, of which the lowest holds what is not background too."""
        entries, bins = self.entries, self.ramps.bins
        values = entries.logits[piece.rows]
        shape, size = values.shape, values.numel()
        if values.dtype != entries.dtype:
            values = buffers.values[:size].view(shape).copy_(values)
        real, step = buffers.real[:size], buffers.step[:size]
        index = buffers.places[:size] if self.memory is None else self.memory[piece.rows].view(torch.int32).view(-1)
        bins.locate(values, entries.base(piece.rows, bins.cells), (index, real, step))
        table = index.view(shape)
        if entries.scope != "batch":
            lowest = bins.start.int()[entries.groups_of(piece.rows)]
            table.sub_(lowest)
        if entries.sparse:
            index.index_fill_(0, piece.positive, 0)
            if len(piece.ignored):
                table.index_fill_(0, piece.ignored, 0)
        else:
            table.mul_(torch.eq(entries.targets[piece.rows], 0, out=step.view(shape)))
        if entries.scope != "batch":
            table.add_(lowest)
        return values.view(-1), index

    def tally(self) -> tuple[Tensor, Tensor]:
        """Number of background entries and sum of their offsets per bin, (S,) float64; fills `memory`."""
        bins, pieces = self.ramps.bins, self.pieces

        def work(share: list["_Piece"]) -> tuple[Tensor, Tensor]:
            buffers = _Buffers.for_pieces(pieces, self.entries)
            number, offsets = (bins.edges.new_zeros(len(bins.edges), dtype=torch.float64) for _ in range(2))
            for piece in share:
                values, index = self.locate(piece, buffers)
                offset = torch.index_select(bins.left, 0, index, out=buffers.real[: len(index)])
                torch.sub(values, offset, out=offset)
                number += torch.bincount(index, minlength=len(number))
                # few bins hold so many values that their sum would lose digits
                weights = offset.double() if len(number) < FEW_BINS else offset
                offsets += torch.bincount(index, weights, minlength=len(number))
            return number, offsets

        results = _spread(work, pieces) or [work([])]
        number, offsets = (sum(parts[1:], parts[0]) for parts in zip(*results, strict=True))
        return number, offsets

    def gradient(self, upstream: Tensor) -> Tensor:
        """(R, C) gradient of the losses weighed by `upstream` (T,)."""
        entries, bins, pieces = self.entries, self.ramps.bins, self.pieces
        upstream = upstream.double() * self.factor
        value, slope = (table.to(entries.dtype) for table in self.ramps.sums(upstream @ self.update.background))
        known, self.memory = self.memory, None
        gradient = torch.empty_like(entries.logits) if known is None else known

        def work(share: list["_Piece"]) -> None:
            buffers = _Buffers.for_pieces(pieces, entries)
            for piece in share:
                if known is None:
                    values, index = self.locate(piece, buffers)
                else:
                    values, index = entries.logits[piece.rows].view(-1), known[piece.rows].view(torch.int32).view(-1)
                step, real = buffers.values[: len(index)], buffers.real[: len(index)]
                torch.sub(values, torch.index_select(bins.left, 0, index, out=real), out=step)
                step.mul_(torch.index_select(slope, 0, index, out=real))
                torch.index_select(value, 0, index, out=real)
                _write(torch.add(step, real, out=step), gradient[piece.rows].view(-1))

        _spread(work, pieces)
        own = (upstream @ self.update.positives)[self.own]
        gradient.view(-1)[entries.positive] = _write(own, torch.empty_like(own, dtype=gradient.dtype))
        return gradient


class _Piece(NamedTuple):
    rows: slice
    positive: Tensor
    ignored: Tensor


class _Buffers(NamedTuple):
    """Memory for one chunk on one thread."""

    values: Tensor
    real: Tensor
    places: Tensor
    step: Tensor

    @classmethod
    def for_pieces(cls, pieces: list[_Piece], entries: _Entries) -> "_Buffers":
        """Make buffers that fit the largest of the pieces, the first."""
        size = entries.logits[pieces[0].rows].numel() if pieces else 0
        new = entries.logits.new_empty
        values, real = (new(size, dtype=entries.dtype) for _ in range(2))
        places, step = (new(size, dtype=torch.int32) for _ in range(2))
        return cls(values, real, places, step)


def _write(wide: Tensor, out: Tensor) -> Tensor:
    """Copy gradients; those in float16 end at its largest value instead of at infinity."""
    if out.dtype == torch.float16:
        largest = torch.finfo(torch.float16).max
        wide = wide.clamp(-largest, largest)
    return out.copy_(wide)


def _evaluate(
    inputs: Tensor, targets: Tensor, quality: Tensor | None, rule: Rule, delta: float, scope: Scope, remember: bool
) -> tuple[Tensor, Tensor, _State]:
    """Return the losses (T,), the weights of the priors (the targets' shape, or empty), and what backward needs."""
    entries = _Entries.of(inputs, targets, scope)
    scores = entries.logits.view(-1)[entries.positive].to(entries.dtype)
    places = entries.positive // entries.logits.shape[1] if entries.sparse else entries.positive
    good = torch.ones_like(scores) if quality is None else quality.detach().reshape(-1)[places]
    good, group = good.double(), entries.group(entries.positive)
    own, factor, apart = slice(0, len(scores)), 1, scope == "image"
    if not apart:
        factor = world_size()
        (scores, good, group), own = _gather([scores, good, group])
    members = torch.bincount(group, minlength=entries.groups)
    active = (members > 0).sum().double()
    if apart:
        active = all_reduce_sum(active) / world_size()
    share = 1 / (members[group] * active)
    ramps = Ramps.around(scores, group, entries.groups, delta)
    memory = torch.empty_like(entries.logits) if remember and entries.logits.dtype == torch.float32 else None
    state = _State(entries, ramps, Update(share, share, share), own, factor, memory, _State.divide(entries))
    number, offsets = state.tally()
    if not apart:
        number, offsets = all_reduce_sum(torch.stack([number, offsets])).unbind()
    with torch.autocast(inputs.device.type, enabled=False):
        update = rule(Ranking(scores, good, group, share, ramps.counts(number, offsets), ramps))
    state.update = update
    # what is not a number among the background would else go unnoticed in the lowest bin
    alarm = offsets[ramps.bins.start].clamp(0, 0).sum()
    weights = scores.new_empty(0)
    if update.weights is not None:
        weights = scores.new_zeros(targets.numel())
        weights[places] = (update.weights[own] * factor).to(weights.dtype)
        weights = weights.view(targets.shape)
    return (update.losses + alarm).to(scores.dtype), weights, state


def _gather(values: Sequence[Tensor]) -> tuple[list[Tensor], slice]:
    """Join 1-D tensors of all processes (all of a process equally long); say which part is this process's own."""
    processes, size = world_size(), len(values[0])
    if processes == 1:
        return list(values), slice(0, size)
    rank = torch.distributed.get_rank()
    sizes = values[0].new_zeros(processes, dtype=torch.int64)
    sizes[rank] = size
    sizes = all_reduce_sum(sizes)
    ends = sizes.cumsum(0).tolist()
    own = slice(ends[rank] - size, ends[rank])
    table = torch.zeros(len(values), ends[-1], dtype=torch.float64, device=values[0].device)
    table[:, own] = torch.stack([value.double() for value in values])
    return [row.to(value.dtype) for row, value in zip(all_reduce_sum(table), values, strict=True)], own


class _ErrorDriven(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, targets: Tensor, quality: Tensor | None, rule: Rule, delta: float, scope: Scope
    ) -> tuple[Tensor, Tensor]:
        losses, weights, ctx.state = _evaluate(inputs, targets, quality, rule, delta, scope, ctx.needs_input_grad[0])
        ctx.save_for_backward(inputs)
        ctx.mark_non_differentiable(weights)
        return losses, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors  # raises where the logits were changed in place
        return ctx.state.gradient(upstream).view(inputs.shape), None, None, None, None, None


def error_driven(terms: int) -> Callable[[Rule], Callable[..., tuple[Tensor, Tensor]]]:
    """Make a loss of a rule with this many losses.

    The loss is called with inputs (…, C), integer labels (…) or qualities (…, C) as targets, a quality (…) of the
    labelled entries or None, δ and the scope; it returns the rule's losses (T,) and its weights, in the targets' shape
    (0 where there is no positive; empty where the rule has none). Compiled code sees it as two operators, which keep
    nothing between the passes.
    """

    def decorate(rule: Rule) -> Callable[..., tuple[Tensor, Tensor]]:
        operator = _operator(rule, terms)

        def loss(
            inputs: Tensor, targets: Tensor, quality: Tensor | None, delta: float, scope: Scope
        ) -> tuple[Tensor, Tensor]:
            if torch.compiler.is_compiling():
                return operator(inputs, targets, quality, delta, scope)
            losses, weights = _ErrorDriven.apply(inputs, targets, quality, rule, delta, scope)
            return losses, weights

        return loss

    return decorate


def _operator(rule: Rule, terms: int) -> Any:
    """Register the operators of a rule, whose shapes the compiler knows without running them."""
    name = f"boxwright::{rule.__name__.strip('_')}"

    @torch.library.custom_op(name, mutates_args=())
    def forward(
        inputs: Tensor, targets: Tensor, quality: Tensor | None, delta: float, scope: str
    ) -> tuple[Tensor, Tensor]:
        losses, weights, _ = _evaluate(inputs, targets, quality, rule, delta, cast(Scope, scope), remember=False)
        return losses, weights if len(weights) else losses.new_zeros(targets.shape)

    @forward.register_fake
    def _(inputs: Tensor, targets: Tensor, quality: Tensor | None, delta: float, scope: str) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(inputs.dtype, torch.float32)
        return inputs.new_empty(terms, dtype=dtype), inputs.new_empty(targets.shape, dtype=dtype)

    @torch.library.custom_op(f"{name}_backward", mutates_args=())
    def backward(
        inputs: Tensor, targets: Tensor, quality: Tensor | None, delta: float, scope: str, upstream: Tensor
    ) -> Tensor:
        _, _, state = _evaluate(inputs, targets, quality, rule, delta, cast(Scope, scope), remember=True)
        return state.gradient(upstream).view(inputs.shape)

    @backward.register_fake
    def _(
        inputs: Tensor, targets: Tensor, quality: Tensor | None, delta: float, scope: str, upstream: Tensor
    ) -> Tensor:
        return inputs.new_empty(inputs.shape)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        logits, targets, quality, ctx.delta, ctx.scope = inputs
        ctx.save_for_backward(logits, targets, quality)

    def differentiate(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return backward(*ctx.saved_tensors, ctx.delta, ctx.scope, upstream), None, None, None, None

    forward.register_autograd(differentiate, setup_context=keep)
    return forward
