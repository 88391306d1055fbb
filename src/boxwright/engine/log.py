"""Numbers of a run: `metrics.jsonl` and TensorBoard events."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from boxwright.distributed import all_reduce_sum, world_size
from boxwright.engine.loop import StepResult, check_same_terms
from boxwright.engine.run import Run

__all__ = ["LossMeter", "MetricsLog"]


class LossMeter:
    """Adds up loss terms on the device; reading the mean is the only moment that waits for it."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._sum: Tensor | None = None
        self._count: Tensor | None = None
        self.images = 0

    def add(self, result: StepResult) -> None:
        """Count a step, unless it was not finite.

        Raises:
            RunError: its terms are not those of the step before.
        """
        if self._sum is not None:
            check_same_terms(self._names, result.names)
        good = 1 - result.bad
        terms = result.terms.nan_to_num(0, 0, 0) * good
        self._sum = terms if self._sum is None else self._sum + terms
        self._count = good if self._count is None else self._count + good
        self._names = result.names
        self.images += result.images

    def read(self) -> dict[str, float]:
        """Return the mean of every term over the steps since the last call and over the processes; start again.

        Empty where no step was finite.
        """
        if self._sum is None or self._count is None:
            return {}
        mean = all_reduce_sum(self._sum / self._count) / world_size()  # all processes count the same steps
        values = dict(zip(self._names, mean.tolist(), strict=True)) if self._count else {}
        self._sum = self._count = None
        self.images = 0
        return values


class MetricsLog:
    """Appends records to a run's metrics; used by the first process only.

    Args:
        run: the run folder.
        step: steps taken so far; later records, of a session that was killed, are dropped.
    """

    def __init__(self, run: Run, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        run.rewind(step)
        self._file = (run.path / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one record and flush it; TensorBoard gets the numbers."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush everything to the disk."""
        self._file.close()
        self._board.close()
