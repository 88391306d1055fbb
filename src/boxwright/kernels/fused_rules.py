# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The rules of the ranking losses as Triton kernels: from counts per edge to losses and to a line per edge.

P is thousands: comparing all pairs of positives and edges takes microseconds, and adds up in one order. The formulas
are those of `boxwright.losses`, which are the reference. Pairs are compared in the precision of the scores, all else
is float64.
"""

import triton
import triton.language as tl

from boxwright.kernels.fused_order import (
    ACTIVE,
    ALARM,
    CHARGE,
    COUNT,
    EDGE,
    FOUND,
    LINE,
    MOST,
    OFFSET,
    QUALITY,
    SCORE,
    SORTING_CHARGE,
)

# rows of `wide`, in ascending order of group and score: as in `Ranking`; each positive's ranking and sorting error
# times its share, what it is charged by better ones, and what the boxes' weights are read from
ABOVE, WORTH_ABOVE, BACKGROUND, PUSH, SORTING, PULL, CUMULATED = (tl.constexpr(row) for row in range(7))
WIDE_ROWS = 7


@triton.jit
def step(value, score, DELTA: tl.constexpr, further=0.0):
    """Soft step from a score to a value, or to a place that lies `further` above it where δ is not 0."""
    if DELTA > 0:
        return tl.minimum(tl.maximum((value - score + further) * (0.5 / DELTA) + 0.5, 0.0), 1.0)
    # infinite scores tie too, though their difference is not a number
    return tl.where(value >= score, 1.0, 0.0).to(value.dtype)


@triton.jit
def _span(spans, at, here, size, capacity, GROUPED: tl.constexpr):
    """Where the groups of some positives begin and end: for each, and for all together."""
    if GROUPED:
        begin = tl.load(spans + at, mask=here, other=size)
        end = tl.load(spans + capacity + at, mask=here, other=0)
        return begin, end, tl.min(begin, axis=0), tl.max(end, axis=0)
    return at * 0, at * 0 + size, 0, size


@triton.jit
def _apart(values, place, begin, end, GROUPED: tl.constexpr):
    """Clear values (ROWS, COLS) or (1, COLS) at the places that lie in another group than the row."""
    if GROUPED:
        values = tl.where((place[None, :] >= begin[:, None]) & (place[None, :] < end[:, None]), values, 0.0)
    return values


@triton.jit
def _share(state, begin, end, processes, GROUPED: tl.constexpr):
    """Weight of positives, times the processes, whose gradients are averaged: groups count alike, and all of one."""
    members = tl.maximum(end - begin, 1).to(tl.float64)
    if GROUPED:
        members *= tl.load(state + ACTIVE).to(tl.float64)
    return processes / members


@triton.jit
def count(
    state,
    spans,
    real,
    wide,
    capacity,
    processes,
    RULE: tl.constexpr,
    GROUPED: tl.constexpr,
    DELTA: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Count background and positives above each positive; for Rank & Sort, also its sorting error."""
    size = tl.load(state + FOUND).to(tl.int32)
    for block in range(tl.program_id(0), tl.cdiv(size, ROWS), tl.num_programs(0)):
        row = block * ROWS + tl.arange(0, ROWS)
        here = row < size
        begin, end, first, last = _span(spans, row, here, size, capacity, GROUPED)
        score = tl.load(real + SCORE * capacity + row, mask=here, other=0.0)
        total = tl.zeros((ROWS, COLS), score.dtype)
        # at least as many edges of the group as it has lower positives lie below the ramp
        for start in range(first + block * ROWS, 2 * last, COLS):
            edge = start + tl.arange(0, COLS)
            there = edge < 2 * last
            left = tl.load(real + EDGE * capacity + edge, mask=there, other=-float("inf"))
            number = tl.load(real + COUNT * capacity + edge, mask=there, other=0.0)
            # ramps are straight between two edges, so the mean stands for all
            mean = tl.load(real + OFFSET * capacity + edge, mask=there, other=0.0)
            part = number[None, :] * step(left[None, :], score[:, None], DELTA, mean[None, :])
            total += _apart(part, edge, 2 * begin, 2 * end, GROUPED)
        tl.store(wide + BACKGROUND * capacity + row, tl.sum(total.to(tl.float64), axis=1), mask=here)
        quality = tl.load(real + QUALITY * capacity + row, mask=here, other=0.0)
        above = tl.zeros((ROWS, COLS), score.dtype)
        worth = tl.zeros((ROWS, COLS), score.dtype)
        misplaced = tl.zeros((ROWS, COLS), score.dtype)
        misplaced_worth = tl.zeros((ROWS, COLS), score.dtype)
        for start in range(first, last, COLS):
            column = start + tl.arange(0, COLS)
            there = column < last
            other = tl.load(real + SCORE * capacity + column, mask=there, other=-float("inf"))
            part = _apart(step(other[None, :], score[:, None], DELTA), column, begin, end, GROUPED)
            if RULE == "ap":
                above += part
            else:
                other_quality = tl.load(real + QUALITY * capacity + column, mask=there, other=0.0)
                if RULE == "alrp":
                    above += part
                    worth += part * other_quality[None, :]
                else:
                    wrong = tl.where(other_quality[None, :] < quality[:, None], part, 0.0)
                    lack = (1.0 - other_quality)[None, :]
                    misplaced += wrong
                    misplaced_worth += wrong * lack
                    above += part - wrong
                    worth += (part - wrong) * lack
        all_above = tl.sum(above.to(tl.float64), axis=1)
        all_worth = tl.sum(worth.to(tl.float64), axis=1)
        if RULE == "rank_sort":
            better, better_lack = all_above, all_worth
            wrong_above = tl.sum(misplaced.to(tl.float64), axis=1)
            all_above += wrong_above
            all_worth += tl.sum(misplaced_worth.to(tl.float64), axis=1)
            error = tl.where(wrong_above > 1e-10, all_worth / all_above - better_lack / better, 0.0)
            push = error * _share(state, begin, end, processes, GROUPED)
            tl.store(wide + SORTING * capacity + row, push, mask=here)
            tl.store(real + SORTING_CHARGE * capacity + row, push / tl.maximum(wrong_above, 1e-10), mask=here)
        tl.store(wide + ABOVE * capacity + row, all_above, mask=here)
        tl.store(wide + WORTH_ABOVE * capacity + row, all_worth, mask=here)


@triton.jit
def _smaller(a, b):
    return tl.minimum(a, b)


@triton.jit
def _least_of_group(group, value, other_group, other):
    return other_group, tl.where(group == other_group, tl.minimum(value, other), other)


@triton.jit
def _sum_of_group(group, value, other_group, other):
    return other_group, tl.where(group == other_group, value + other, other)


@triton.jit(debug=True)
def judge(
    state,
    spans,
    real,
    wide,
    losses,
    capacity,
    processes,
    partners,
    CAPACITY: tl.constexpr,
    RULE: tl.constexpr,
    GROUPED: tl.constexpr,
    DELTA: tl.constexpr,
    TILE: tl.constexpr,
):
    """Apply the rule in one block: losses, the push of each positive, and what it charges the background above it."""
    tl.device_assert(tl.load(state + MOST) <= CAPACITY, "more than 32767 positives in a batch on one device")
    size = tl.load(state + FOUND).to(tl.int32)
    itself = 0.5 if DELTA > 0 else 1.0
    total, sorting = tl.zeros((), tl.float64), tl.zeros((), tl.float64)
    best = tl.full((), 1.0, tl.float64)
    cumulated = tl.zeros((), tl.float64)
    # the group that the tile before ended in, known by its first positive
    group = tl.full((), -1, tl.int32)
    for start in range(0, size, TILE):
        row = start + tl.arange(0, TILE)
        here, final = row < size, row == start + TILE - 1
        begin, end, _first, _last = _span(spans, row, here, size, capacity, GROUPED)
        share = _share(state, begin, end, processes, GROUPED)
        above = tl.load(wide + ABOVE * capacity + row, mask=here, other=1.0)
        false = tl.load(wide + BACKGROUND * capacity + row, mask=here, other=0.0)
        if RULE == "ap":
            # one minus the precision, which falls to its least so far; the pair with itself counts as a whole one
            error = tl.where(here, false / (above + (1.0 - itself) + false), 1.0)
            if GROUPED:
                _group, error = tl.associative_scan((begin, error), 0, _least_of_group)
                error = tl.where(begin == group, tl.minimum(error, best), error)
                best = tl.sum(tl.where(final, error, 0.0), axis=0)
            else:
                error = tl.minimum(tl.associative_scan(error, 0, _smaller), best)
                best = tl.min(error, axis=0)
            error = tl.where(here, error, 0.0)
            push, smallest = share * error, 1e-10
            total += tl.sum(push, axis=0)
        elif RULE == "rank_sort":
            error = tl.where(false > 1e-10, false / (above + false), 0.0)
            push, smallest = share * error, 1e-10
            total += tl.sum(push, axis=0)
            sorting += tl.sum(tl.load(wide + SORTING * capacity + row, mask=here, other=0.0), axis=0)
        else:
            quality = tl.load(real + QUALITY * capacity + row, mask=here, other=0.0).to(tl.float64)
            boxes = tl.load(wide + WORTH_ABOVE * capacity + row, mask=here, other=0.0) - itself * quality
            rank = 1.0 + above - itself + false
            push, smallest = share * tl.where(false > 1e-5, (boxes + false) / rank, 0.0), 1e-5
            total += tl.sum(share * false / rank, axis=0)
            weight = tl.where(here, share / rank, 0.0)
            if GROUPED:
                _group, weight = tl.associative_scan((begin, weight), 0, _sum_of_group)
                weight += tl.where(begin == group, cumulated, 0.0)
                cumulated = tl.sum(tl.where(final, weight, 0.0), axis=0)
                tl.store(wide + CUMULATED * capacity + row, weight, mask=here)
            else:
                tl.store(wide + CUMULATED * capacity + row, cumulated + tl.cumsum(weight, axis=0), mask=here)
                cumulated += tl.sum(weight, axis=0)
        if GROUPED:
            group = tl.sum(tl.where(final, begin, 0), axis=0)
        tl.store(wide + PUSH * capacity + row, push, mask=here)
        tl.store(real + CHARGE * capacity + row, push / tl.maximum(false, smallest), mask=here)
    # what is not a number would else go unnoticed
    alarm = tl.where(tl.load(state + ALARM) > 0, float("nan"), 0.0)
    # each process of those that rank together has the whole loss
    tl.store(losses, total / partners + alarm)
    if RULE == "rank_sort":
        tl.store(losses + 1, sorting / partners + alarm)


@triton.jit
def hand_out(
    state,
    places,
    spans,
    real,
    wide,
    weights,
    capacity,
    COLUMNS: tl.constexpr,
    RULE: tl.constexpr,
    GROUPED: tl.constexpr,
    DELTA: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Add the charges up: a line for each edge, the pull on each positive by better ones, the weight of each box."""
    size = tl.load(state + FOUND).to(tl.int32)
    for block in range(tl.program_id(0), tl.cdiv(2 * size, ROWS), tl.num_programs(0)):
        row = block * ROWS + tl.arange(0, ROWS)
        here = row < 2 * size
        begin, end, first, last = _span(spans, row // 2, here, size, capacity, GROUPED)
        edge = tl.load(real + EDGE * capacity + row, mask=here, other=0.0)
        level = tl.zeros((ROWS, COLS), edge.dtype)
        slope = tl.zeros((ROWS, COLS), edge.dtype)
        # not more ramps of the group have begun than it has edges
        for start in range(first, tl.minimum(last, (block + 1) * ROWS - first), COLS):
            column = start + tl.arange(0, COLS)
            there = column < last
            score = tl.load(real + SCORE * capacity + column, mask=there, other=float("inf"))
            charge = tl.load(real + CHARGE * capacity + column, mask=there, other=0.0)
            charge = _apart(charge[None, :], column, begin, end, GROUPED)
            level += charge * step(edge[:, None], score[None, :], DELTA)
            rising = ((score - DELTA)[None, :] <= edge[:, None]) & (edge[:, None] < (score + DELTA)[None, :])
            slope += tl.where(rising, charge, 0.0)
        line = real + LINE * capacity + row * 4
        tl.store(line, edge, mask=here)
        tl.store(line + 1, tl.sum(level, axis=1), mask=here)
        tl.store(line + 2, tl.sum(slope, axis=1) * (0.5 / DELTA if DELTA > 0 else 0.0), mask=here)
        if RULE != "ap" and block * ROWS < size:
            here = row < size
            begin, end, first, last = _span(spans, row, here, size, capacity, GROUPED)
            score = tl.load(real + SCORE * capacity + row, mask=here, other=0.0)
            if RULE == "rank_sort":
                quality = tl.load(real + QUALITY * capacity + row, mask=here, other=0.0)
                pull = tl.zeros((ROWS, COLS), edge.dtype)
                for start in range(first, last, COLS):
                    column = start + tl.arange(0, COLS)
                    there = column < last
                    other = tl.load(real + SCORE * capacity + column, mask=there, other=float("inf"))
                    better = tl.load(real + QUALITY * capacity + column, mask=there, other=0.0)
                    charge = tl.load(real + SORTING_CHARGE * capacity + column, mask=there, other=0.0)
                    part = charge[None, :] * step(score[:, None], other[None, :], DELTA)
                    part = _apart(part, column, begin, end, GROUPED)
                    pull += tl.where(better[None, :] > quality[:, None], part, 0.0)
                tl.store(wide + PULL * capacity + row, tl.sum(pull, axis=1), mask=here)
            else:
                # ties count, so the last of them tells
                low, length = row, size
                while length > 0:
                    inside = low < end
                    middle = (low + end) // 2
                    tied = inside & (tl.load(real + SCORE * capacity + middle, mask=inside, other=0.0) <= score)
                    low = tl.where(tied, middle + 1, low)
                    end = tl.where(inside & ~tied, middle, end)
                    length = length // 2
                weight = tl.load(wide + CUMULATED * capacity + tl.maximum(low - 1, 0), mask=here, other=0.0)
                place = tl.load(places + row, mask=here, other=-1)
                tl.store(weights + place // COLUMNS, weight, mask=place >= 0)
