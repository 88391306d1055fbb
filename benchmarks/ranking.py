"""Cost of the ranking losses beside a focal loss and the published loops: time, peak memory, growth, accuracy.

    python benchmarks/ranking.py --rounds 5 --output benchmarks/results/ranking
    python benchmarks/ranking.py --device cuda --output benchmarks/results/ranking_h100

The losses take turns in one process, each round in another order; of each round's ratios to the focal loss the median
counts, so that they hold on a busy machine. Each turn is two calls, of which the second is timed: the first gives back
the memory that the loss before left with the allocator, which takes up to a third of our own losses' time. The loop is
a float32 transcription of the published formulas; it runs once, and from the third row on for some positives, from
whose time that of all is extrapolated.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import sigmoid_focal_loss

from boxwright.losses import alrp_loss, ap_loss, rank_sort_loss

ROWS = [(50, 100_000), (500, 1_000_000), (2_000, 5_000_000), (5_000, 10_000_000)]
GOALS = {50: 1.0, 500: 0.5, 2_000: 0.4, 5_000: 0.5}
CLASSES = 80
LOOP_LIMIT = 1_000_000
SOME = 20


def problem(positives: int, negatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (L, C) with N(-4, 1.5) background and N(0, 1.5) positives, labels (L,), dense targets (L, C)."""
    random = torch.Generator().manual_seed(0)
    rows = (positives + negatives) // CLASSES
    logits = torch.randn(rows, CLASSES, generator=random) * 1.5 - 4
    place = torch.randperm(rows, generator=random)[:positives]
    labels = torch.full((rows,), -1)
    labels[place] = torch.randint(0, CLASSES, (positives,), generator=random)
    logits[place, labels[place]] = torch.randn(positives, generator=random) * 1.5
    dense = torch.zeros_like(logits)
    dense[place, labels[place]] = 1
    return logits.requires_grad_(), labels, dense


def ap_loop(logits: Tensor, dense: Tensor, limit: int | None = None) -> Tensor:
    """Return the update of AP-Loss, one positive after the other as published, in the logits' precision.

    Stops after `limit` positives, to time some of them.
    """
    logits, dense = logits.detach().view(-1), dense.view(-1)
    gradient = torch.zeros_like(logits)
    scores = logits[dense == 1]
    relevant = ((dense == 0) & (logits >= scores.min() - 1)).nonzero().view(-1)
    negatives, best = logits[relevant], logits.new_zeros(())
    update, errors = torch.zeros_like(negatives), torch.zeros_like(scores)
    for place in scores.argsort()[:limit]:
        a = (scores / 2 - scores[place] / 2 + 0.5).clamp(0, 1).sum() + 0.5
        above = (negatives / 2 - scores[place] / 2 + 0.5).clamp_(0, 1)
        b = above.sum()
        precision = a / (a + b)
        factor = 1.0
        if precision < best:
            factor = (1 - best) / (1 - precision)
        best = torch.maximum(best, precision)
        errors[place] = 1 - best
        update += above * (factor / (a + b))
    gradient[relevant] = update / len(scores)
    gradient[dense == 1] = -errors / len(scores)
    return gradient


def second(call: Callable[[], object]) -> float:
    """Time of the second of two calls."""
    call()
    return seconds(call)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak(call: Callable[[], object]) -> int:
    """High water of the allocator above its start, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        call()
    now = highest = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest


def measure(positives: int, negatives: int, rounds: int) -> dict[str, float]:
    logits, labels, dense = problem(positives, negatives)
    quality = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1))

    def of(loss: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(), logits)

    calls = {
        "focal": of(lambda: sigmoid_focal_loss(logits, dense, reduction="sum")),
        "ap": of(lambda: ap_loss(logits, labels)),
        "ap, dense targets": of(lambda: ap_loss(logits, dense)),
        "rank-sort": of(lambda: torch.stack(rank_sort_loss(logits, labels, scores=quality)).sum()),
        "alrp": of(lambda: alrp_loss(logits, labels, quality)[0]),
    }
    for call in calls.values():
        call()
    # small problems need more rounds for a median that holds
    rounds *= max(1, 10_000_000 // negatives)
    # nobody always comes after the focal loss, which costs up to half of one's own time
    names, shuffle = list(calls), random.Random(0)
    orders = [shuffle.sample(names, len(names)) for _ in range(rounds)]
    times = [{name: second(calls[name]) for name in order} for order in orders]
    row: dict[str, float] = {"positives": positives, "negatives": negatives, "goal": GOALS[positives]}
    for name in calls:
        row[f"{name}: ms"] = 1e3 * median(turn[name] for turn in times)
        row[f"{name}: x focal"] = median(turn[name] / turn["focal"] for turn in times)
        row[f"{name}: fastest ms"] = 1e3 * min(turn[name] for turn in times)
        row[f"{name}: peak x logits"] = peak(calls[name]) / (4 * logits.numel())
    whole = negatives <= LOOP_LIMIT
    some = seconds(lambda: ap_loop(logits, dense, None if whole else SOME))
    row["ap loop: ms"] = 1e3 * some * (1 if whole else positives / SOME)
    row["ap loop: x focal"] = row["ap loop: ms"] / row["focal: ms"]
    if whole:
        exact = ap_loop(logits.double(), dense)
        (ours,) = torch.autograd.grad(ap_loss(logits, labels), logits)
        row["ap: gradient's relative error"] = ((ours.view(-1) - exact).norm() / exact.norm()).item()
    return row


def growth(rounds: int) -> dict[str, float]:
    """Fitted exponents: of time in N at P = 500, and in P at N = 10^6."""

    def best(positives: int, negatives: int) -> float:
        logits, labels, _ = problem(positives, negatives)
        return min(seconds(lambda: torch.autograd.grad(ap_loss(logits, labels), logits)) for _ in range(rounds + 2))

    def exponent(pairs: list[tuple[int, float]]) -> float:
        x, y = (torch.tensor([math.log(pair[side]) for pair in pairs]) for side in (0, 1))
        return (((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()).item()

    return {
        "exponent in N": exponent([(n, best(500, n)) for n in (1_000_000, 2_000_000, 4_000_000, 8_000_000)]),
        "exponent in P": exponent([(p, best(p, 1_000_000)) for p in (100, 500, 2_000, 5_000)]),
    }


def table(rows: list[dict[str, float]], fitted: dict[str, float], threads: int) -> str:
    names = [name.removesuffix(": x focal") for name in rows[0] if name.endswith(": x focal")]
    lines = [
        f"Forward + backward on {threads} CPU threads, torch {torch.__version__}: time relative to torchvision's",
        "`sigmoid_focal_loss`, median of interleaved rounds in one process (in brackets: fastest over fastest), and",
        "peak memory in units of the logits.",
        "",
        "| positives, negatives | goal | " + " | ".join(names) + " | gradient's error |",
        "|---" * (len(names) + 3) + "|",
    ]
    for row in rows:
        cells = []
        for name in names:
            ratio, memory = row[f"{name}: x focal"], row.get(f"{name}: peak x logits")
            about = "≈ " if name == "ap loop" and row["negatives"] > LOOP_LIMIT else ""
            cell = f"{about}{ratio:.2f} ×"
            if memory:
                fastest = row[f"{name}: fastest ms"] / row["focal: fastest ms"]
                cell += f" ({fastest:.2f}), {memory:.2f} N"
            cells.append(cell)
        error = row.get("ap: gradient's relative error")
        cells.append("–" if error is None else f"{error:.0e}")
        size = f"{row['positives']:.0f}, {row['negatives']:.0e}"
        lines.append(f"| {size} | {row['goal']} × | " + " | ".join(cells) + " |")
    lines += ["", f"≈: extrapolated from {SOME} positives.", ""]
    lines += [f"{name} = {value:.2f}" for name, value in fitted.items()]
    return "\n".join(lines) + "\n"


def on_gpu(rows: list[tuple[int, int]], output: Path | None) -> None:
    """Print the table of a GPU, and write it."""
    import ranking_on_gpu as gpu

    measured = []
    for positives, negatives in rows:
        sizes = {"positives": positives, "negatives": negatives}
        loop = ap_loop if negatives <= LOOP_LIMIT else None
        measured.append(sizes | gpu.measure(*problem(positives, negatives), loop))
    save(gpu.table(measured), {"rows": measured}, output)


def save(text: str, numbers: dict[str, object], output: Path | None) -> None:
    print(text)
    if output:
        output.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
        output.with_suffix(".md").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=len(ROWS), help="how many rows of the table, from the smallest")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--output", type=Path, help="write OUTPUT.json and OUTPUT.md")
    options = parser.parse_args()
    if options.device == "cuda":
        return on_gpu(ROWS[: options.rows], options.output)
    torch.set_num_threads(options.threads)
    rows = [measure(*row, options.rounds) for row in ROWS[: options.rows]]
    fitted = growth(options.rounds)
    save(table(rows, fitted, options.threads), {"rows": rows, "growth": fitted}, options.output)


if __name__ == "__main__":
    main()
