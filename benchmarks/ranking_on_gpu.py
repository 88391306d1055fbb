"""Cost of the ranking losses on a GPU, for `python benchmarks/ranking.py --device cuda`.

Each call is timed twice: as Python launches it, kernel after kernel, and replayed from a CUDA graph, which leaves out
what Python costs. Times are medians of `triton.testing.do_bench`, which empties the device's cache between calls.
"""

from collections.abc import Callable

import torch
import triton.testing
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from boxwright.losses import alrp_loss, ap_loss, rank_sort_loss, sigmoid_focal_loss

Row = dict[str, float | dict[str, float]]
YARDSTICK = "fused focal"
OURS = ("ap", "ap, dense targets", "ap by class", "rank-sort", "rank-sort by class", "alrp")


def median(call: Callable[[], object], rep: int) -> float:
    """Milliseconds of a call."""
    return float(triton.testing.do_bench(call, warmup=20, rep=rep, return_mode="median"))


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """Return the replay of a call from a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def kernels(call: Callable[[], object]) -> dict[str, float]:
    """Microseconds of a call on the device, by kernel; and how many it launches."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        call()
        torch.cuda.synchronize()
    own = [event for event in trace.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    own.sort(key=lambda event: -event.self_device_time_total)
    spent = {f"{event.key[:70]} ({event.count})": float(event.self_device_time_total) for event in own}
    return {"launches": float(sum(event.count for event in own)), **spent}


def measure(logits: Tensor, labels: Tensor, dense: Tensor, loop: Callable[[Tensor, Tensor], Tensor] | None) -> Row:
    """Time all losses on logits (L, C), labels (L,) and dense targets (L, C)."""
    logits, labels, dense = logits.detach().cuda().requires_grad_(), labels.cuda(), dense.cuda()
    quality = torch.rand(labels.shape, device="cuda")
    copy = torch.empty_like(logits)

    def of(loss: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(), logits)

    calls = {
        "copy": lambda: copy.copy_(logits.detach()),
        "torchvision focal": of(lambda: torchvision_focal_loss(logits, dense, reduction="sum")),
        YARDSTICK: of(lambda: sigmoid_focal_loss(logits, labels, reduction="sum")),
        "fused focal, dense targets": of(lambda: sigmoid_focal_loss(logits, dense, reduction="sum")),
        "ap": of(lambda: ap_loss(logits, labels)),
        "ap, dense targets": of(lambda: ap_loss(logits, dense)),
        "ap by class": of(lambda: ap_loss(logits, labels, scope="class")),
        "rank-sort": of(lambda: torch.stack(rank_sort_loss(logits, labels, scores=quality)).sum()),
        "rank-sort by class": of(
            lambda: torch.stack(rank_sort_loss(logits, labels, scores=quality, scope="class")).sum()
        ),
        "alrp": of(lambda: alrp_loss(logits, labels, quality)[0]),
    }
    row: Row = {}
    for name, call in calls.items():
        row[f"{name}: ms"] = median(call, rep=100)
        row[f"{name}: ms in a graph"] = median(captured(call), rep=100)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        row[f"{name}: peak x logits"] = (torch.cuda.max_memory_allocated() - before) / (4 * logits.numel())
        row[f"{name}: kernels in us"] = kernels(call)
    if loop is not None:
        row["ap loop: ms"] = median(lambda: loop(logits, dense), rep=1)
    return row


def table(rows: list[Row]) -> str:
    """Write times relative to the fused focal loss on the same logits."""
    names = [name.removesuffix(": ms") for name in rows[0] if name.endswith(": ms")]
    yardstick = (
        f"Forward + backward on {torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}"
    )
    lines = [
        f"{yardstick}:",
        "milliseconds as launched / replayed from a CUDA graph (both relative to our fused focal loss with labels).",
        "The copy reads and writes the logits once: 8 bytes for each.",
        "",
        "| positives, negatives | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row in rows:
        cells = []
        for name in names:
            pair = [(row.get(f"{name}: ms{way}"), row[f"{YARDSTICK}: ms{way}"]) for way in ("", " in a graph")]
            known = [(time, focal) for time, focal in pair if time is not None]
            times, ratios = (
                " / ".join(parts) for parts in ([f"{t:.3f}" for t, _ in known], [f"{t / f:.2f}" for t, f in known])
            )
            cells.append(f"{times} ({ratios} ×)" if known else "–")
        lines.append(f"| {row['positives']:.0f}, {row['negatives']:.0e} | " + " | ".join(cells) + " |")
    launches = {
        name: [row[f"{name}: kernels in us"]["launches"] for row in rows] for name in names if name != "ap loop"
    }
    lines += ["", *(f"{name} launches {counts} kernels" for name, counts in launches.items())]
    for row in rows[-2:]:
        for name in OURS:
            lines += ["", f"{name}, {row['positives']:.0f} positives, {row['negatives']:.0e} negatives, microseconds:"]
            spent = row[f"{name}: kernels in us"]
            lines += [f"    {time:8.1f}  {kernel}" for kernel, time in spent.items() if kernel != "launches"]
    return "\n".join(lines) + "\n"
