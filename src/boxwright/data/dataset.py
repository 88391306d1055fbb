"""From records to samples and from samples to batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from boxwright.boxes import clip_boxes
from boxwright.data.images import read_image
from boxwright.data.mix import Mix
from boxwright.data.records import ImageRecord
from boxwright.data.transforms import FILL
from boxwright.errors import DataError
from boxwright.structures import Targets
from boxwright.structures.base import TensorStruct

__all__ = ["Batch", "DetectionDataset", "Sample", "collate", "read_record"]

STRIDE = 32


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its objects, after the transform.

    Attributes:
        image: (3, height, width) uint8.
        boxes: (n, 4) float32 xyxy in pixels of `image`.
        labels: (n,) int64.
        crowd: (n,) bool, regions to ignore.
        image_id: the record's.
        original_size: (height, width) of the stored image.
        skipped: what was wrong with images that were passed over to get here.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    image_id: int
    original_size: tuple[int, int]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Batch(TensorStruct):
    """B images of one size with their targets.

    Attributes:
        images: (B, 3, H, W) uint8; the content at the top left.
        targets: objects in pixels of `images`.
        sizes: (B, 2) int64, height and width of the content inside the padding.
        original_sizes: (B, 2) int64, height and width of the stored images.
        image_ids: the records' ids.
        skipped: messages about images that could not be used.
    """

    images: Tensor
    targets: Targets
    sizes: Tensor
    original_sizes: Tensor
    image_ids: tuple[int, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def to_original(self, boxes: Tensor) -> Tensor:
        """Map boxes (B, K, 4) found in `images` to the stored images; exact only where the transform did not crop."""
        scale = (self.original_sizes / self.sizes).flip(1).repeat(1, 2)[:, None].to(boxes)  # (B, 1, 4): x, y, x, y
        return clip_boxes(boxes * scale, self.original_sizes[:, None])


def read_record(record: ImageRecord, enough: int | None = None) -> Tensor:
    """Read the image that a record names; (3, height, width) uint8."""
    return read_image(record.path, (record.width, record.height), enough)


class DetectionDataset(Dataset[Sample]):
    """Records with their pixels, transformed.

    An item is asked for by its index or by (epoch, index). Random changes depend on the seed, the epoch and the index
    alone, so neither the number of workers and processes nor what was drawn before has an influence.

    Args:
        records: the annotated images.
        transform: from and to a dictionary with `image`, `boxes`, `labels`, `crowd` (see `boxwright.data.transforms`).
        read: gives the (3, height, width) uint8 pixels of a record; `SyntheticScenes.draw` for drawn ones.
        seed: of the random changes.
        skip_bad: take the next image where one cannot be read, instead of raising (for training only).
        mix: makes one image of several, all drawn from these records.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        read: Callable[[ImageRecord], Tensor] = read_record,
        seed: int = 0,
        skip_bad: bool = False,
        mix: Mix | None = None,
    ) -> None:
        self.mix = mix
        self.records, self.transform, self.read = records, transform, read
        self.seed, self.skip_bad = seed, skip_bad

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Return a sample.

        Raises:
            DataError: the image cannot be used; with `skip_bad`, none of the images can.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        skipped: list[str] = []
        for step in range(len(self) if self.skip_bad else 1):
            try:
                sample = self._load(epoch, (index + step) % len(self))
            except DataError as error:
                skipped.append(str(error))
            else:
                return replace(sample, skipped=tuple(skipped))
        raise DataError(skipped[-1])

    def _load(self, epoch: int, index: int) -> Sample:
        record, sample = self.records[index], self._read(index)
        with _random_numbers_of(self.seed, epoch, index):
            sample = self.transform(sample) if self.mix is None else self.mix(sample, self._draw, self.transform)
        return Sample(
            image=sample["image"].as_subclass(Tensor),
            boxes=sample["boxes"].as_subclass(Tensor),
            labels=sample["labels"],
            crowd=sample["crowd"],
            image_id=record.image_id,
            original_size=(record.height, record.width),
        )

    def _draw(self) -> dict[str, Any]:
        """Read an image at random."""
        return self._read(int(torch.randint(len(self), ())))

    def _read(self, index: int) -> dict[str, Any]:
        """Read an image with its objects, as the transform wants them."""
        record = self.records[index]
        image = self.read(record)
        height, width = image.shape[-2:]
        scale = torch.tensor([width / record.width, height / record.height]).repeat(2)
        return {
            "image": tv_tensors.Image(image),
            # not clamped before the last step, which measures how much of each object a crop has left
            "boxes": tv_tensors.BoundingBoxes(
                record.boxes * scale, format="XYXY", canvas_size=(height, width), clamping_mode=None
            ),
            "labels": record.labels,
            "crowd": record.crowd,
        }


def collate(samples: Sequence[Sample], square: int | None = None) -> Batch:
    """Pad images at the right and the bottom to one size and stack them.

    Args:
        samples: at least one.
        square: side of the square to pad to, for batches of always the same size; None pads to the largest image and on
            to multiples of 32, as does an image that is larger than the square.
    """
    sizes = torch.tensor([sample.image.shape[-2:] for sample in samples])
    most = sizes.amax(dim=0).tolist()
    if square is not None and max(most) <= square:
        height = width = square
    else:
        height, width = (-(-max(side, square or 1) // STRIDE) * STRIDE for side in most)
    fill = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1)
    images = torch.empty(len(samples), 3, height, width, dtype=torch.uint8)
    for canvas, sample in zip(images, samples, strict=True):
        h, w = sample.image.shape[-2:]
        canvas[:, :h, :w] = sample.image
        canvas[:, h:] = fill
        canvas[:, :h, w:] = fill
    return Batch(
        images=images,
        targets=Targets.from_list(
            [{"boxes": sample.boxes, "labels": sample.labels, "iscrowd": sample.crowd} for sample in samples]
        ),
        sizes=sizes,
        original_sizes=torch.tensor([sample.original_size for sample in samples]),
        image_ids=tuple(sample.image_id for sample in samples),
        skipped=tuple(message for sample in samples for message in sample.skipped),
    )


def seed_from(*key: int) -> int:
    """Return a 32-bit seed, unrelated for keys of one length that differ anywhere."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


@contextmanager
def _random_numbers_of(*key: int) -> Iterator[None]:
    """Seed torch's CPU generator from a key, and give it back as it was."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed_from(*key))  # not torch.manual_seed, which would reseed the GPUs as well
    try:
        yield
    finally:
        generator.set_state(state)
