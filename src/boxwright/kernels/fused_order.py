# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Positives found, put in order, and the ends of their ramps with a grid of cells over them, as Triton kernels.

How many positives there are stays on the device: kernels read it there, and work on as many. Every process writes what
it finds into a message of its own; the arrays in which all of these lie in order have room for `capacity` positives.
Arrays of one type lie in one tensor, whose rows are named here.
"""

import triton
import triton.language as tl

# what `state` holds: positives in all, whether a score is not a number, steps within a cell, groups that have a
# positive, and the most positives that a process has found
FOUND, ALARM, STEPS, ACTIVE, MOST = (tl.constexpr(place) for place in range(5))
STATE = 16
# a message begins with the number of positives and whether a score of theirs is not a number; then come their keys, and
# their scores and qualities as numbers
HEAD = tl.constexpr(16)
# a key is a group and a place among the logits, for which there are so many bits
PLACE_BITS, LAST_PLACE = tl.constexpr(38), tl.constexpr(2**38 - 1)
# rows of `real`, in the precision of the scores: in ascending order of group and score, and by edge, two rows each; a
# LINE is edge, level and slope beside each other, so that they are read at once
SCORE, QUALITY, CHARGE, SORTING_CHARGE = (tl.constexpr(row) for row in range(4))
EDGE, COUNT, OFFSET, LINE = (tl.constexpr(row) for row in (4, 6, 8, 10))
REAL_ROWS = 18


@triton.jit(do_not_specialize=["size", "per_image"])
def find(
    logits,
    targets,
    qualities,
    keys,
    numbers,
    marks,
    size,
    per_image,
    room,
    COLUMNS: tl.constexpr,
    SPARSE: tl.constexpr,
    SCOPE: tl.constexpr,
    HAS_QUALITY: tl.constexpr,
    TILE: tl.constexpr,
):
    """Collect the positives, in any order; of dense targets, mark what is background by one bit each."""
    first = tl.program_id(0).to(tl.int64) * TILE
    at = tl.arange(0, TILE)
    here = first + at < size
    target = tl.load(targets + first + at, mask=here, other=0)
    if SPARSE:
        positive = here & (target >= 0) & (target < COLUMNS)
    else:
        positive = here & (target > 0)
        bits = tl.where(here & (target == 0), 1, 0) << (at % 32)
        word = tl.program_id(0) * (TILE // 32) + tl.arange(0, TILE // 32)
        tl.store(marks + word, tl.sum(tl.reshape(bits, (TILE // 32, 32)), axis=1))
    number = tl.sum(positive.to(tl.int32), axis=0)
    if number > 0:
        slot = tl.atomic_add(keys - HEAD, number.to(tl.int64), sem="relaxed")
        slot = slot + tl.cumsum(positive.to(tl.int32), axis=0) - 1
        fits = positive & (slot < room)
        place = first + at
        quality = tl.full((TILE,), 1.0, tl.float32)
        if HAS_QUALITY:
            quality = tl.load(qualities + place, mask=fits, other=1.0)
        if SPARSE:
            place = place * COLUMNS + target
        score = tl.load(logits + place, mask=fits, other=0.0)
        if tl.max((score != score).to(tl.int32), axis=0) > 0:
            tl.store(keys - HEAD + 1, 1)
        key = place
        if SCOPE == "class":
            key = ((place % COLUMNS).to(tl.int64) << PLACE_BITS) | place
        elif SCOPE == "image":
            key = ((place // per_image).to(tl.int64) << PLACE_BITS) | place
        tl.store(keys + slot, key, mask=fits)
        # what is not a number has no place in an order
        tl.store(numbers + slot, tl.where(score == score, score, 0.0), mask=fits)
        tl.store(numbers + room + slot, quality, mask=fits)


@triton.jit
def order(
    keys,
    numbers,
    state,
    borders,
    places,
    spans,
    real,
    stride,
    room,
    capacity,
    rank,
    PROCESSES: tl.constexpr,
    GROUPED: tl.constexpr,
    DELTA: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Rank the positives by group, score and place, and merge the ends of their ramps, by comparing all pairs."""
    number_stride = stride * (64 // numbers.dtype.element_ty.primitive_bitwidth)
    if tl.program_id(0) == 0:
        _add_up(keys, state, borders, stride, room, PROCESSES, GROUPED)
    for process in range(PROCESSES):
        size = _found(keys, process * stride, room)
        for block in range(tl.program_id(0), tl.cdiv(size, ROWS), tl.num_programs(0)):
            row = block * ROWS + tl.arange(0, ROWS)
            here = row < size
            score = tl.load(numbers + process * number_stride + row, mask=here, other=0.0)
            quality = tl.load(numbers + process * number_stride + room + row, mask=here, other=0.0)
            key = tl.load(keys + process * stride + row, mask=here, other=0)
            low, high = score - DELTA, score + DELTA
            place = tl.zeros((ROWS, COLS), tl.int32)
            ended = tl.zeros((ROWS, COLS), tl.int32)
            begun = tl.zeros((ROWS, COLS), tl.int32)
            before = tl.zeros((ROWS, COLS), tl.int32)
            members = tl.zeros((ROWS, COLS), tl.int32)
            for partner in range(PROCESSES):
                partner_size = _found(keys, partner * stride, room)
                for start in range(0, partner_size, COLS):
                    column = start + tl.arange(0, COLS)
                    there = column < partner_size
                    # what is not a number counts nowhere
                    other = tl.load(numbers + partner * number_stride + column, mask=there, other=float("nan"))
                    other_key = tl.load(keys + partner * stride + column, mask=there, other=0)
                    earlier = other_key[None, :] < key[:, None]
                    if PROCESSES > 1:
                        earlier = (partner < process) | ((partner == process) & earlier)
                    lower = (other[None, :] < score[:, None]) | ((other[None, :] == score[:, None]) & earlier)
                    ends = (other + DELTA)[None, :] < low[:, None]
                    begins = (other - DELTA)[None, :] <= high[:, None]
                    if GROUPED:
                        group = (key >> PLACE_BITS).to(tl.int32)[:, None]
                        other_group = (other_key >> PLACE_BITS).to(tl.int32)[None, :]
                        same = there[None, :] & (other_group == group)
                        before += (there[None, :] & (other_group < group)).to(tl.int32)
                        members += same.to(tl.int32)
                        lower, ends, begins = lower & same, ends & same, begins & same
                    place += lower.to(tl.int32)
                    ended += ends.to(tl.int32)
                    begun += begins.to(tl.int32)
            place = tl.sum(place, axis=1)
            edge = place
            if GROUPED:
                begin = tl.sum(before, axis=1)
                end = begin + tl.sum(members, axis=1)
                lowest = here & (place == 0)
                border = borders + 2 * (key >> PLACE_BITS)
                tl.store(border, begin, mask=lowest)
                tl.store(border + 1, end, mask=lowest)
                tl.atomic_add(state + ACTIVE, tl.sum(lowest.to(tl.int64), axis=0), sem="relaxed")
                place += begin
                edge = place + begin
                tl.store(spans + place, begin, mask=here)
                tl.store(spans + capacity + place, end, mask=here)
            position = key & LAST_PLACE
            if PROCESSES > 1:  # those of others have no place here
                position = tl.where(process == rank, position, -1)
            tl.store(places + place, position, mask=here)
            tl.store(real + SCORE * capacity + place, score, mask=here)
            tl.store(real + QUALITY * capacity + place, quality, mask=here)
            tl.store(real + EDGE * capacity + edge + tl.sum(ended, axis=1), low, mask=here)
            tl.store(real + EDGE * capacity + edge + tl.sum(begun, axis=1), high, mask=here)


@triton.jit
def _found(keys, start, room):
    """How many positives of a message there is room for."""
    return tl.minimum(tl.load(keys - HEAD + start), room).to(tl.int32)


@triton.jit
def _add_up(keys, state, borders, stride, room, PROCESSES: tl.constexpr, GROUPED: tl.constexpr):
    """Note what the heads of all messages say."""
    total = tl.zeros((), tl.int32)
    most, alarm = tl.zeros((), tl.int64), tl.zeros((), tl.int64)
    for process in range(PROCESSES):
        head = keys - HEAD + process * stride
        total += _found(keys, process * stride, room)
        most, alarm = tl.maximum(most, tl.load(head)), tl.maximum(alarm, tl.load(head + 1))
    tl.store(state + FOUND, total)
    tl.store(state + MOST, most)
    tl.store(state + ALARM, alarm)
    if not GROUPED:
        tl.store(borders + 1, total)


@triton.jit
def lay_cells(state, borders, real, frames, cells, capacity, CELLS: tl.constexpr, TILE: tl.constexpr):
    """Lay uniform cells over the edges of each group: how many edges lie before each and within, in half a word each.

    Note where a group's cells begin and how many there are per unit, and the halvings of what lies within one.
    """
    HALF: tl.constexpr = cells.dtype.element_ty.primitive_bitwidth // 2
    group = tl.program_id(0) // (CELLS // TILE)
    first = 2 * tl.load(borders + 2 * group).to(tl.int32)
    last = 2 * tl.load(borders + 2 * group + 1).to(tl.int32)
    edges = real + EDGE * capacity
    # what is not a number is reached by nothing, not even by infinity
    low = tl.load(edges + first, mask=first < last, other=float("nan"))
    high = tl.load(edges + last - 1, mask=first < last, other=float("nan"))
    scale = CELLS / tl.maximum(high - low, 1e-30)
    tl.store(frames + 2 * group, low)
    tl.store(frames + 2 * group + 1, scale)
    if first < last:
        cell = tl.program_id(0) % (CELLS // TILE) * TILE + tl.arange(0, TILE)
        before = _edges_before(cell, edges, first, last, low, scale, CELLS)
        within = _edges_before(cell + 1, edges, first, last, low, scale, CELLS) - before
        word = before.to(cells.dtype.element_ty) | (within.to(cells.dtype.element_ty) << HALF)
        tl.store(cells + group * CELLS + cell, word)
        most = tl.max(within, axis=0)
        steps = 0
        while most > 0:
            most = most // 2
            steps += 1
        tl.atomic_max(state + STEPS, tl.full((), 0, tl.int64) + steps, sem="relaxed")


@triton.jit
def _edges_before(cell, edges, first, last, low, scale, CELLS: tl.constexpr):
    """Count the edges up to those of the group that are in lower cells."""
    begin = cell * 0 + first
    end = cell * 0 + last
    length = last - first
    while length > 0:
        inside = begin < end
        middle = (begin + end) // 2
        lower = inside & (_cell_of(tl.load(edges + middle, mask=inside, other=0.0), low, scale, CELLS) < cell)
        begin = tl.where(lower, middle + 1, begin)
        end = tl.where(inside & ~lower, middle, end)
        length = length // 2
    return begin


@triton.jit
def _cell_of(x, low, scale, CELLS: tl.constexpr):
    """Cell of each value; never falls as x rises."""
    cell = (x - low) * scale
    # by comparison, since a product of infinity and 0 is not a number, of which a maximum may make either
    return tl.where(cell > 0, tl.minimum(cell, CELLS - 1.0), 0.0).to(tl.int32)


@triton.jit
def last_reached(
    x, background, group, frames, low, scale, edges, cells, steps, GROUPED: tl.constexpr, CELLS: tl.constexpr
):
    """Say what of the background reaches an edge of its group, and which one it reaches last."""
    HALF: tl.constexpr = cells.dtype.element_ty.primitive_bitwidth // 2
    if GROUPED:
        low = tl.load(frames + 2 * group, mask=background, other=float("nan"))
        scale = tl.load(frames + 2 * group + 1, mask=background, other=0.0)
    wanted = background & (x >= low)
    cell = _cell_of(x, low, scale, CELLS)
    if GROUPED:
        cell += group * CELLS
    word = tl.load(cells + cell, mask=wanted, other=0)
    begin = (word & ((1 << HALF) - 1)).to(tl.int32)
    end = begin + ((word >> HALF) & ((1 << HALF) - 1)).to(tl.int32)
    for _ in range(steps):
        middle = (begin + end) >> 1
        # what is not a number is never reached: nothing moves where nothing is left
        reached = x >= tl.load(edges + middle, mask=begin < end, other=float("nan"))
        begin = tl.where(reached, middle + 1, begin)
        end = tl.where(reached, end, middle)
    return wanted, begin - 1
