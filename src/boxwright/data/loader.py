"""Batches in an order that depends on the seed and the epoch alone."""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch.utils.data import DataLoader, Sampler

from boxwright.counts import counted
from boxwright.data.dataset import Batch, DetectionDataset, Sample, collate, seed_from
from boxwright.data.images import check_image, read_image
from boxwright.data.records import ImageRecord
from boxwright.errors import DataError, RunError

__all__ = [
    "BatchOrder",
    "Loader",
    "bad_images",
    "begin_worker",
    "build_loader",
    "lost_workers",
    "readable",
    "verify_images",
    "worker_errors",
]

logger = logging.getLogger(__name__)


class BatchOrder(Sampler[list[tuple[int, int]]]):
    """Which images form the batches of one process: lists of (epoch, index).

    Batches of the whole job are formed first and then split, so that R processes with b images each see together what
    one process with R·b images sees. In training (`shuffle`) every process gets the same number of steps: a last batch
    that does not fill up is dropped, or filled to equal shares with images from the start of the epoch. In evaluation
    every image is seen exactly once.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        if count < 1:
            raise DataError("the data set has no images; check the path and the split")
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.drop_last = drop_last and count >= batch_size * world_size
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches of this process."""
        return len(self._batches(torch.arange(self.count)))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of the current epoch."""
        epoch, order = self.epoch, torch.arange(self.count)
        if self.shuffle:
            order = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed_from(self.seed, epoch)))
        for batch in self._batches(order):
            yield [(epoch, index) for index in batch.tolist()]

    def _batches(self, order: torch.Tensor) -> list[torch.Tensor]:
        whole = self.batch_size * self.world_size
        if self.shuffle and self.drop_last:
            order = order[: self.count // whole * whole]
        elif self.shuffle:
            missing = -self.count % self.world_size
            order = order[torch.arange(self.count + missing) % self.count]
        shares = (order[start : start + whole][self.rank :: self.world_size] for start in range(0, len(order), whole))
        return [share for share in shares if len(share)]


class Loader:
    """Iterates over the batches of an epoch; plain iteration gives those of epoch 0 (evaluation)."""

    def __init__(self, batches: DataLoader[Sample], order: BatchOrder) -> None:
        self._batches, self._order = batches, order
        self._reported: set[str] = set()

    @property
    def dataset(self) -> DetectionDataset:
        """The data set behind the batches."""
        return self._batches.dataset  # type: ignore[return-value]

    def __len__(self) -> int:
        """Return the number of batches of an epoch in this process."""
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of epoch 0."""
        return self.epoch(0)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, the same whatever was read before; a skipped image is logged once."""
        self._order.epoch = epoch
        with worker_errors():
            for batch in self._batches:
                for message in set(batch.skipped) - self._reported:
                    self._reported.add(message)
                    logger.warning("skipped: %s", message)
                yield batch


@contextmanager
def worker_errors() -> Iterator[None]:
    """Give a `DataError` that comes from a loader process its own sentence back: torch makes it a whole traceback."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error


@contextmanager
def lost_workers() -> Iterator[None]:
    """Say that a loader process was killed, of which torch raises an error wherever this process happens to be.

    Raises:
        RunError: in place of that error.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(
            f"a process that reads images has ended ({str(error).strip().rstrip('.')}); where memory is short, use "
            "fewer of them: data.workers"
        ) from error


def build_loader(
    dataset: DetectionDataset,
    batch_size: int,
    *,
    shuffle: bool = False,
    workers: int = 0,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = False,
    square: int | None = None,
    pin_memory: bool = False,
) -> Loader:
    """Build a loader.

    Args:
        dataset: the samples.
        batch_size: images per batch of this process.
        shuffle: training order, drawn from (seed, epoch); else the order of the records.
        workers: loader processes; 0 loads in this one. Results do not depend on it.
        seed: of the order.
        rank: which of `world_size` processes this is.
        world_size: number of training processes.
        drop_last: leave out a last training batch that does not fill up (unless there is no other).
        square: pad every batch to at least this square, see `collate`.
        pin_memory: hand batches over in page-locked memory.
    """
    order = BatchOrder(len(dataset), batch_size, shuffle, seed, rank, world_size, drop_last)
    batches = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=partial(collate, square=square),
        persistent_workers=workers > 0,
        worker_init_fn=begin_worker,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own, so that loading leaves the training's random numbers alone
    )
    return Loader(batches, order)


def begin_worker(worker: int) -> None:
    """Make a loader worker end with the main process, and not hear what is sent to all processes of a job.

    Signals such as Ctrl-C, or a cluster's notice that its time is over, are the main process's: a forked worker has its
    handlers, and would do once more what they do.
    """
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # not on every system
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()


def _end_with_the_main_process() -> None:
    """Leave when the main process is gone, even if it was killed.

    torch looks at the process that started the worker. Under `forkserver`, the default of Linux from Python 3.14, that
    is a server which lives as long as its workers do.
    """
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def verify_images(records: Sequence[ImageRecord], decode: bool = False) -> dict[int, str]:
    """Read every image's header, or decode it whole, and return what is wrong by index into `records`."""
    read: Callable[..., object] = read_image if decode else check_image
    findings = {}
    for index, record in enumerate(records):
        try:
            read(record.path, (record.width, record.height))
        except DataError as error:
            findings[index] = str(error)
    return findings


def readable(records: Sequence[ImageRecord], skip: Callable[[str], None] | None = None) -> Sequence[ImageRecord]:
    """Return the records whose images can be read.

    Args:
        records: images.
        skip: called with the problem of an image that is left out; None refuses such images.

    Raises:
        DataError: images cannot be read, and there is no `skip`.
    """
    bad = verify_images(records, decode=skip is not None)
    if skip is None and bad:
        raise bad_images([*bad.values()])
    for problem in bad.values():
        assert skip is not None
        skip(problem)
    return [record for position, record in enumerate(records) if position not in bad] if bad else records


def bad_images(problems: Sequence[str]) -> DataError:
    """Return the error about images that cannot be read."""
    more = f" (and {counted(len(problems) - 1, 'more image')})" if len(problems) > 1 else ""
    return DataError(f"{problems[0]}{more}; or leave them out with --skip-bad")
