# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Positives found, put in order, and the ends of their ramps with a grid of cells over them, as Triton kernels.

How many positives there are stays on the device: kernels read it there, and work on as many. Arrays have room for
`capacity` positives; those of one type lie in one tensor, whose rows are named here.
"""

import triton
import triton.language as tl

# what `state` holds
FOUND, ALARM, STEPS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
STATE = 16
# rows of `real`, in the precision of the scores: as found, in ascending order of score, and by edge, two rows each; a
# LINE is edge, level and slope beside each other, so that they are read at once
RAW_SCORE, RAW_QUALITY, SCORE, QUALITY, CHARGE, SORTING_CHARGE = (tl.constexpr(row) for row in range(6))
EDGE, COUNT, OFFSET, LINE = (tl.constexpr(row) for row in (6, 8, 10, 12))
REAL_ROWS = 20


@triton.jit(do_not_specialize=["size"])
def find(
    logits,
    targets,
    qualities,
    state,
    places,
    real,
    marks,
    size,
    capacity,
    COLUMNS: tl.constexpr,
    SPARSE: tl.constexpr,
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
        place = tl.atomic_add(state + FOUND, number.to(tl.int64), sem="relaxed")
        place = place + tl.cumsum(positive.to(tl.int32), axis=0) - 1
        fits = positive & (place < capacity)
        position = first + at
        quality = tl.full((TILE,), 1.0, tl.float32)
        if HAS_QUALITY:
            quality = tl.load(qualities + position, mask=fits, other=1.0)
        if SPARSE:
            position = position * COLUMNS + target
        tl.store(places + place, position, mask=fits)
        tl.store(real + RAW_SCORE * capacity + place, tl.load(logits + position, mask=fits), mask=fits)
        tl.store(real + RAW_QUALITY * capacity + place, quality, mask=fits)


@triton.jit
def order(state, places, real, capacity, DELTA: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Rank the positives by score and place, and merge the ends of their ramps, by comparing all pairs."""
    size = tl.minimum(tl.load(state + FOUND), capacity).to(tl.int32)
    for block in range(tl.program_id(0), tl.cdiv(size, ROWS), tl.num_programs(0)):
        row = block * ROWS + tl.arange(0, ROWS)
        here = row < size
        score = tl.load(real + RAW_SCORE * capacity + row, mask=here, other=0.0)
        quality = tl.load(real + RAW_QUALITY * capacity + row, mask=here, other=0.0)
        place = tl.load(places + row, mask=here, other=0)
        low, high = score - DELTA, score + DELTA
        rank = tl.zeros((ROWS, COLS), tl.int32)
        ended = tl.zeros((ROWS, COLS), tl.int32)
        begun = tl.zeros((ROWS, COLS), tl.int32)
        for start in range(0, size, COLS):
            column = start + tl.arange(0, COLS)
            there = column < size
            # what is not a number counts nowhere
            other = tl.load(real + RAW_SCORE * capacity + column, mask=there, other=float("nan"))
            other_place = tl.load(places + column, mask=there, other=0)
            earlier = (other[None, :] == score[:, None]) & (other_place[None, :] < place[:, None])
            rank += ((other[None, :] < score[:, None]) | earlier).to(tl.int32)
            ended += ((other + DELTA)[None, :] < low[:, None]).to(tl.int32)
            begun += ((other - DELTA)[None, :] <= high[:, None]).to(tl.int32)
        rank = tl.sum(rank, axis=1)
        tl.store(places + capacity + rank, place, mask=here)
        tl.store(real + SCORE * capacity + rank, score, mask=here)
        tl.store(real + QUALITY * capacity + rank, quality, mask=here)
        tl.store(real + EDGE * capacity + rank + tl.sum(ended, axis=1), low, mask=here)
        tl.store(real + EDGE * capacity + rank + tl.sum(begun, axis=1), high, mask=here)
        if tl.max((here & (score != score)).to(tl.int32), axis=0) > 0:
            tl.store(state + ALARM, 1)


@triton.jit
def lay_cells(state, real, cells, capacity, CELLS: tl.constexpr, TILE: tl.constexpr):
    """Lay uniform cells over the edges: how many edges lie before each and within, 16 bits each; halvings of these."""
    size = 2 * tl.minimum(tl.load(state + FOUND), capacity).to(tl.int32)
    if size > 0:
        edges = real + EDGE * capacity
        low, high = tl.load(edges), tl.load(edges + size - 1)
        cell = tl.program_id(0) * TILE + tl.arange(0, TILE)
        before = _edges_before(cell, edges, size, low, high, CELLS)
        until = _edges_before(cell + 1, edges, size, low, high, CELLS)
        within = until - before
        tl.store(cells + cell, before | (within << 16))
        most = tl.max(within, axis=0)
        steps = 0
        while most > 0:
            most = most // 2
            steps += 1
        tl.atomic_max(state + STEPS, tl.full((), 0, tl.int64) + steps, sem="relaxed")


@triton.jit
def _edges_before(cell, edges, size, low, high, CELLS: tl.constexpr):
    """Count the edges in lower cells."""
    begin = cell * 0
    end = begin + size
    length = size
    while length > 0:
        inside = begin < end
        middle = (begin + end) // 2
        lower = inside & (cell_of(tl.load(edges + middle, mask=inside, other=0.0), low, high, CELLS) < cell)
        begin = tl.where(lower, middle + 1, begin)
        end = tl.where(inside & ~lower, middle, end)
        length = length // 2
    return begin


@triton.jit
def cell_of(x, low, high, CELLS: tl.constexpr):
    """Cell of each value; never falls as x rises."""
    scale = CELLS / tl.maximum(high - low, 1e-30)
    return tl.minimum(tl.maximum((x - low) * scale, 0.0), CELLS - 1.0).to(tl.int32)


@triton.jit
def last_reached(x, wanted, edges, cells, low, high, steps, CELLS: tl.constexpr):
    """Last edge that each wanted value reaches; these are at least `low`."""
    cell = cell_of(x, low, high, CELLS)
    word = tl.load(cells + cell, mask=wanted, other=0)
    begin = word & 0xFFFF
    end = begin + ((word >> 16) & 0xFFFF)
    for _ in range(steps):
        middle = (begin + end) >> 1
        # what is not a number is never reached: nothing moves where nothing is left
        reached = x >= tl.load(edges + middle, mask=begin < end, other=float("nan"))
        begin = tl.where(reached, middle + 1, begin)
        end = tl.where(reached, end, middle)
    return begin - 1
