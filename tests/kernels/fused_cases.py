"""Compares the Triton kernel with its reference; run in a process of its own, with TRITON_INTERPRET=1 on a CPU."""

import itertools
import sys

import torch

from boxwright.kernels import DistanceModulator, FocalModulator, VarifocalModulator
from boxwright.kernels.chunked import _fill
from boxwright.kernels.fused import fill, rescale

EXTREMES = torch.tensor([0.0, -1e-4, 17.5, -17.0, 90.0, -90.0, 1e4, -1e4])


def main(device: str) -> None:
    torch.manual_seed(0)
    cases = 0
    for rows, classes, dtype in [(70, 35, torch.float32), (9, 3, torch.bfloat16)]:
        logits = torch.randn(rows, classes) * 3
        count = min(len(EXTREMES), rows)
        logits[:count, 0] = EXTREMES[:count]
        logits = torch.stack([logits, logits], dim=-1).to(device, dtype)[..., 0]  # not contiguous
        labels, scores = torch.randint(-2, classes, (rows,), device=device), torch.rand(rows, device=device)
        dense = torch.rand(rows, classes, device=device)
        dense = torch.where(dense < 0.7, 0, dense)
        upstream = torch.rand(rows, device=device)
        modulators = [
            FocalModulator(2.0, 0.25),
            FocalModulator(1.5, None),
            FocalModulator(0.5, torch.rand(classes, device=device)),
            DistanceModulator(2.0),
            DistanceModulator(0.0),
            DistanceModulator(1.0),
            VarifocalModulator(2.0, 0.75, weight_by_target=True, detach=False),
            VarifocalModulator(1.5, 1.0, weight_by_target=False, detach=True),
        ]
        for modulator, targets in itertools.product(modulators, ("labels", "scores", "dense")):
            call = (logits, dense if targets == "dense" else labels, scores if targets == "scores" else None, modulator)
            above = upstream if targets == "scores" else None
            actual, expected = (
                (torch.empty(rows, device=device), torch.empty_like(logits).contiguous()) for _ in range(2)
            )
            fill(*call, *actual, above)
            # the reference on the CPU, whatever the device of the kernel
            on_cpu = [tensor.cpu() for tensor in expected]
            arguments = [argument.cpu() if isinstance(argument, torch.Tensor) else argument for argument in call]
            if isinstance(modulator, FocalModulator) and isinstance(modulator.alpha, torch.Tensor):
                arguments[3] = FocalModulator(modulator.gamma, modulator.alpha.cpu())
            _fill(*arguments, *on_cpu, None if above is None else above.cpu())
            tolerance = 1e-5 if dtype == torch.float32 else 1e-2
            for a, b in zip(actual, on_cpu, strict=True):
                torch.testing.assert_close(a.cpu().float(), b.float(), rtol=tolerance, atol=tolerance)
            cases += 1
        scaled = dense.to(dtype)
        upstream[:3] = 1
        for above in (upstream, torch.ones_like(upstream)):
            expected = scaled.float() * above.unsqueeze(1)
            rescale(scaled, above)
            torch.testing.assert_close(scaled.float(), expected, rtol=tolerance, atol=0)
    print(f"{cases} cases agree")


if __name__ == "__main__":
    main(sys.argv[1])
