# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The two passes over all logits as Triton kernels: each logit is read twice and each gradient written once.

The bin of an entry is named by the last edge of its group that it reaches; below the first edge nothing counts, and
the gradient is 0. Number and offsets of a bin are one integer in fixed point, so that the order of the additions does
not matter.
"""

import triton
import triton.language as tl

from boxwright.kernels.fused_order import ALARM, COUNT, EDGE, FOUND, LINE, OFFSET, STEPS, last_reached
from boxwright.kernels.fused_rules import PULL, PUSH, SORTING

# more tables than these take longer to add up than they save
MOST_TABLES = tl.constexpr(128)
# bits of a fraction at most, and in what processes add up
FRACTION = tl.constexpr(28)


@triton.jit
def _entries(
    logits,
    targets,
    marks,
    tile,
    entries,
    per_image,
    COLUMNS: tl.constexpr,
    SPARSE: tl.constexpr,
    SCOPE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Return where a tile begins, its places in it, its logits, which of them are background, and their groups."""
    first = tile * tl.full((), TILE, tl.int64)
    at = tl.arange(0, TILE)
    # 64 bits where a tile begins, 32 inside of it
    here = at < tl.minimum(entries - first, TILE).to(tl.int32)
    # what is read once leaves the first-level cache to cells and edges
    x = tl.load(logits + first + at, mask=here, other=0.0, cache_modifier=".cg")
    row = first // COLUMNS
    inside = (first - row * COLUMNS).to(tl.int32) + at
    if SPARSE:
        label = tl.load(targets + row + inside // COLUMNS, mask=here, other=-2).to(tl.int32)
        background = here & (label != inside % COLUMNS) & (label != -2)
    else:
        word = tl.load(marks + first // 32 + at // 32, mask=here, other=0)
        background = here & (((word >> (at % 32)) & 1) == 1)
    group = at
    if SCOPE == "class":
        group = inside % COLUMNS
    elif SCOPE == "image":
        image = first // per_image
        group = image.to(tl.int32) + ((first - image * per_image).to(per_image.dtype) + at) // per_image
    return first, at, here, x, background, group


@triton.jit
def _packing(entries, size, memory, programs, TILE: tl.constexpr):
    """Return the number of tables, and the bits of a fraction and of a sum of fractions, so that nothing overflows."""
    tables = tl.minimum(memory // size, MOST_TABLES)
    tiles = tl.cdiv(entries, TILE)
    most = tl.cdiv(programs, tables).to(tl.int64) * tl.cdiv(tiles, programs) * TILE
    bits = 0
    while most > 0:
        most = most // 2
        bits += 1
    fraction = tl.minimum(63 - 2 * bits, 28)
    return tables, fraction, bits + fraction


# logits are read as their bins are: one by one, so that nothing changes hands between threads
@triton.jit(do_not_specialize=["per_image"], do_not_specialize_on_alignment=["logits"])
def tally(
    logits,
    targets,
    marks,
    state,
    real,
    frames,
    cells,
    tables,
    entries,
    per_image,
    capacity,
    memory,
    COLUMNS: tl.constexpr,
    SPARSE: tl.constexpr,
    SCOPE: tl.constexpr,
    DELTA: tl.constexpr,
    CELLS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Count the background per edge into several tables."""
    size = 2 * tl.load(state + FOUND).to(tl.int32)
    programs = tl.num_programs(0)
    number, fraction, shift = _packing(entries, tl.maximum(size, 1), memory, programs, TILE)
    steps = tl.load(state + STEPS).to(tl.int32)
    edges = real + EDGE * capacity
    low, scale = tl.load(frames), tl.load(frames + 1)
    table = tables + (tl.program_id(0) % number) * size
    one = tl.full((), 1, tl.int64) << shift
    unit = (tl.full((), 1, tl.int32) << fraction).to(tl.float32)
    lost = tl.zeros((TILE,), tl.int32)
    for tile in range(tl.program_id(0), tl.cdiv(entries, TILE), programs):
        _first, _at, _here, x, background, group = _entries(
            logits, targets, marks, tile, entries, per_image, COLUMNS, SPARSE, SCOPE, TILE
        )
        x = x.to(real.dtype.element_ty)
        wanted, edge = last_reached(
            x, background, group, frames, low, scale, edges, cells, steps, SCOPE != "batch", CELLS
        )
        word = one
        if DELTA > 0:
            # wider bins are gaps, in which no ramp rises
            offset = tl.minimum((x - tl.load(edges + edge, mask=wanted, other=0.0)) * (0.5 / DELTA), 1.0)
            word = one + (tl.where(wanted, offset, 0.0) * unit + 0.5).to(tl.int64)
        tl.atomic_add(table + edge, word, mask=wanted, sem="relaxed")
        lost |= (background & (x != x)).to(tl.int32)
    if tl.max(lost, axis=0) > 0:
        tl.store(state + ALARM, 1)


@triton.jit
def join(
    state,
    real,
    tables,
    sums,
    entries,
    capacity,
    memory,
    programs,
    SHARED: tl.constexpr,
    TILE: tl.constexpr,
    DELTA: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Add up the tables: number of background and its mean offset from the edge, per edge; or sums to be shared."""
    size = 2 * tl.load(state + FOUND).to(tl.int32)
    if tl.program_id(0) * WIDTH < size:
        many, fraction, shift = _packing(entries, size, memory, programs, TILE)
        edge = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
        number = tl.zeros((HEIGHT, WIDTH), tl.int64)
        offset = tl.zeros((HEIGHT, WIDTH), tl.int64)
        below = (tl.full((), 1, tl.int64) << shift) - 1
        for start in range(0, many, HEIGHT):
            table = start + tl.arange(0, HEIGHT)
            here = (table < many)[:, None] & (edge < size)[None, :]
            word = tl.load(tables + table[:, None] * size + edge[None, :], mask=here, other=0)
            number += word >> shift
            offset += word & below
        number = tl.sum(number, axis=0)
        offset = tl.sum(offset, axis=0)
        if SHARED:
            tl.store(sums + edge, number, mask=edge < size)
            tl.store(sums + 2 * capacity + edge, offset << (FRACTION - fraction), mask=edge < size)
        else:
            number = number.to(tl.float64)
            unit = (tl.full((), 1, tl.int32) << fraction).to(tl.float64)
            tl.store(real + COUNT * capacity + edge, number, mask=edge < size)
            mean = offset.to(tl.float64) / (tl.maximum(number, 1.0) * unit) * (2 * DELTA)
            tl.store(real + OFFSET * capacity + edge, mean, mask=edge < size)


@triton.jit(do_not_specialize=["per_image"], do_not_specialize_on_alignment=["logits", "gradient"])
def write(
    logits,
    targets,
    marks,
    state,
    real,
    frames,
    cells,
    upstream,
    gradient,
    entries,
    per_image,
    capacity,
    COLUMNS: tl.constexpr,
    SPARSE: tl.constexpr,
    SCOPE: tl.constexpr,
    DELTA: tl.constexpr,
    CELLS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Write the gradient of the background, and 0 elsewhere."""
    steps = tl.load(state + STEPS).to(tl.int32)
    factor = tl.load(upstream).to(real.dtype.element_ty)
    edges = real + EDGE * capacity
    low, scale = tl.load(frames), tl.load(frames + 1)
    for tile in range(tl.program_id(0), tl.cdiv(entries, TILE), tl.num_programs(0)):
        first, at, here, x, background, group = _entries(
            logits, targets, marks, tile, entries, per_image, COLUMNS, SPARSE, SCOPE, TILE
        )
        x = x.to(real.dtype.element_ty)
        wanted, edge = last_reached(
            x, background, group, frames, low, scale, edges, cells, steps, SCOPE != "batch", CELLS
        )
        line = real + LINE * capacity + edge[:, None] * 4 + tl.arange(0, 4)[None, :]
        line = tl.reshape(tl.load(line, mask=wanted[:, None], other=0.0), (TILE, 2, 2))
        left_and_slope, level_and_nothing = tl.split(line)
        left, slope = tl.split(left_and_slope)
        level, _nothing = tl.split(level_and_nothing)
        # beyond the last ramp the slope is 0, and scores have no bound
        change = level + slope * tl.where(wanted, tl.minimum(x - left, 2.0 * DELTA), 0.0)
        tl.store(gradient + first + at, narrow(change * factor, gradient.dtype.element_ty), mask=here)


@triton.jit
def place(
    state,
    places,
    wide,
    upstream,
    upstream_sorting,
    gradient,
    capacity,
    SORTED: tl.constexpr,
    TILE: tl.constexpr,
):
    """Write the gradient of the positives that are here."""
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    here = row < tl.load(state + FOUND).to(tl.int32)
    change = -tl.load(upstream).to(tl.float64) * tl.load(wide + PUSH * capacity + row, mask=here, other=0.0)
    if SORTED:
        pull = tl.load(wide + PULL * capacity + row, mask=here, other=0.0)
        pull -= tl.load(wide + SORTING * capacity + row, mask=here, other=0.0)
        change += tl.load(upstream_sorting).to(tl.float64) * pull
    at = tl.load(places + row, mask=here, other=-1)
    tl.store(gradient + at, narrow(change, gradient.dtype.element_ty), mask=at >= 0)


@triton.jit
def narrow(value, dtype: tl.constexpr):
    """Convert gradients; those in float16 end at its largest value instead of at infinity."""
    if dtype == tl.float16:
        value = tl.minimum(tl.maximum(value, -65504.0), 65504.0)
    if dtype != tl.float64:
        value = value.to(tl.float32)  # from which there is a way to every narrower type
    return value.to(dtype)
