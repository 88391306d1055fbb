"""Procedural scenes: overlapping textured things on a textured ground, drawn from (seed, index) alone."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from boxwright.data.coco import coco_content
from boxwright.data.files import new_folder
from boxwright.data.records import ImageRecord

__all__ = ["SyntheticScenes", "write_synthetic"]

Array = NDArray[np.floating[Any]]

BACKGROUND_SHARE = 0.1
CROWD_SHARE = 0.4
MAX_COVERED = 0.5  # share of a box that later objects may hide


@dataclass(frozen=True)
class Kind:
    """A family of objects: an outline in polar form, a hole, a texture on it, and how often it appears.

    `outline` gives the radius (up to 1) at an angle; `texture` a value in 0..1 at (u, v, radius, angle) of the unit
    disc, which mixes the object's two colours.
    """

    name: str
    share: float
    aspect: tuple[float, float]
    hole: float
    outline: Callable[[Array], Array]
    texture: Callable[[Array, Array, Array, Array], Array]


KINDS = (
    Kind(
        "leaf", 0.60, (0.4, 0.6), 0.0,
        lambda t: (np.abs(np.cos(t)) ** 1.3 + np.abs(np.sin(t)) ** 1.3) ** (-1 / 1.3),
        lambda u, v, r, t: 0.5 + 0.5 * np.sin(9 * (u + np.abs(v))),
    ),
    Kind(
        "ring", 0.25, (0.75, 1.0), 0.5,
        lambda t: np.ones_like(t),
        lambda u, v, r, t: np.clip(1 - 16 * (r - 0.75) ** 2, 0, 1),
    ),
    Kind(
        "starfish", 0.10, (0.85, 1.0), 0.0,
        lambda t: 0.68 + 0.32 * np.cos(5 * t),
        lambda u, v, r, t: 0.5 + 0.5 * np.sin(11 * u) * np.sin(11 * v),
    ),
    Kind(
        "gear", 0.05, (0.9, 1.0), 0.2,
        lambda t: 0.86 + 0.14 * np.tanh(4 * np.cos(8 * t)),
        lambda u, v, r, t: 0.5 + 0.5 * np.cos(14 * r),
    ),
)  # fmt: skip
PEBBLE = Kind(
    "pebble", 0.0, (0.55, 0.9), 0.0,
    lambda t: 0.9 + 0.06 * np.sin(2 * t + 1) + 0.04 * np.sin(3 * t),
    lambda u, v, r, t: np.clip(0.6 - 0.4 * v, 0, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One object of a scene: place and radius in pixels, angle in radians, two RGB colours in 0..255."""

    kind: Kind
    x: float
    y: float
    radius: float
    aspect: float
    angle: float
    colours: tuple[Array, Array]

    def box(self, size: int) -> Array:
        """Extent (x1, y1, x2, y2) of the part inside an image of side `size`."""
        angles = np.linspace(0, 2 * np.pi, 256, dtype=np.float32)
        reach = self.kind.outline(angles) * self.radius
        u, v = reach * np.cos(angles), reach * np.sin(angles) * self.aspect
        x = self.x + u * math.cos(self.angle) - v * math.sin(self.angle)
        y = self.y + u * math.sin(self.angle) + v * math.cos(self.angle)
        points = np.stack([x, y], axis=1)
        gap = self.radius * 2 * math.pi / len(angles)  # points this far outside still tell where the border is crossed
        points = points[((points > -gap) & (points < size + gap)).all(axis=1)]
        return np.concatenate([points.min(axis=0), points.max(axis=0)]).clip(0, size)

    def draw(self, canvas: Array) -> None:
        """Paint the object and its shadow onto a (size, size, 3) canvas."""
        reach, size = self.radius + 3, len(canvas)
        x1, x2 = max(0, math.floor(self.x - reach)), min(size, math.ceil(self.x + reach))
        y1, y2 = max(0, math.floor(self.y - reach)), min(size, math.ceil(self.y + reach))
        dx = np.arange(x1, x2, dtype=np.float32)[None, :] + 0.5 - self.x
        dy = np.arange(y1, y2, dtype=np.float32)[:, None] + 0.5 - self.y
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        u = (dx * cosine + dy * sine) / self.radius
        v = (dy * cosine - dx * sine) / (self.radius * self.aspect)
        radius, angle = np.hypot(u, v), np.arctan2(v, u)
        inside = np.minimum(self.kind.outline(angle) - radius, radius - self.kind.hole if self.kind.hole else 1)
        cover = np.clip(inside * self.radius * self.aspect + 0.5, 0, 1)[..., None]
        shadow = np.clip(inside[:-2, :-2] * self.radius * 0.4 + 0.5, 0, 1)[..., None]
        patch = canvas[y1:y2, x1:x2]
        patch[2:, 2:] *= 1 - 0.45 * shadow
        mix = self.kind.texture(u, v, radius, angle)[..., None]
        light = 1 - 0.012 * np.clip((dx + dy) / self.radius * 20, -20, 20)[..., None]
        colour = (self.colours[0] * (1 - mix) + self.colours[1] * mix) * light
        patch += cover * (colour - patch)


@dataclass(frozen=True)
class SyntheticScenes(Sequence[ImageRecord]):
    """A data set that is drawn, not stored: `scenes[i]` is a record, `scenes.draw(scenes[i])` its picture.

    Scene i depends on (seed, i, size) alone. Classes appear about 12 : 5 : 2 : 1; a tenth of the scenes has no object.

    Args:
        length: number of scenes.
        size: side of the square pictures in pixels.
        seed: another seed, other scenes.
    """

    length: int
    size: int = 256
    seed: int = 0

    names: ClassVar[tuple[str, ...]] = tuple(kind.name for kind in KINDS)

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.length

    def __getitem__(self, index: int) -> ImageRecord:  # type: ignore[override]  # no slices
        """Return the annotations of a scene."""
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        things = _things(self.seed, index, self.size)
        boxes = torch.from_numpy(np.array([t.box(self.size) for t in things], dtype=np.float32).reshape(-1, 4))
        return ImageRecord(
            path=Path(f"scene-{index:06d}.png"),
            image_id=index + 1,
            width=self.size,
            height=self.size,
            boxes=boxes,
            labels=torch.tensor([KINDS.index(thing.kind) for thing in things], dtype=torch.int64),
            crowd=torch.zeros(len(things), dtype=torch.bool),
            area=(boxes[:, 2:] - boxes[:, :2]).prod(dim=1),
        )

    def draw(self, record: ImageRecord) -> Tensor:
        """Draw the picture of a scene's record: (3, size, size) uint8."""
        index = record.image_id - 1
        rng = np.random.default_rng((self.seed, index, 1))
        canvas = _ground(rng, self.size)
        for _ in range(rng.integers(2, 9)):
            _thing(rng, PEBBLE, rng.uniform(0, self.size, 2), self.size * rng.uniform(0.02, 0.1)).draw(canvas)
        for thing in _things(self.seed, index, self.size):
            thing.draw(canvas)
        canvas += 6 * rng.standard_normal(canvas.shape[:2], dtype=np.float32)[..., None]
        return torch.from_numpy(canvas.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def write_synthetic(dst: Path | str, train: int = 400, val: int = 100, size: int = 256, seed: int = 0) -> None:
    """Write scenes as a COCO data set: `images/{train,val}/*.png` and `annotations/instances_{train,val}.json`.

    The folder appears complete or not at all.

    Raises:
        DataError: the folder holds something already.
    """
    with new_folder(Path(dst)) as target:
        (target / "annotations").mkdir()
        for split, count, split_seed in (("train", train, 2 * seed), ("val", val, 2 * seed + 1)):
            scenes = SyntheticScenes(count, size, split_seed)
            (target / "images" / split).mkdir(parents=True)
            for record in scenes:
                pixels = scenes.draw(record).permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(target / "images" / split / record.path, compress_level=3)
            named = [(f"{split}/{record.path}", record) for record in scenes]
            content = coco_content(named, scenes.names, range(1, len(KINDS) + 1))
            (target / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


@lru_cache(maxsize=1024)
def _things(seed: int, index: int, size: int) -> tuple[Thing, ...]:
    """Objects of a scene in the order in which they are painted, none hidden by more than MAX_COVERED."""
    rng = np.random.default_rng((seed, index, 0))
    if rng.random() < BACKGROUND_SHARE:
        return ()
    things: list[Thing] = []
    boxes, covered = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    for thing in _candidates(rng, size):
        box = thing.box(size)
        side = np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None)
        hidden = covered + side.prod(1) / (boxes[:, 2:] - boxes[:, :2]).prod(1)
        cut = (box[2:] - box[:2]).min() < 0.6 * thing.radius
        if not cut and (hidden <= MAX_COVERED).all():
            things.append(thing)
            boxes, covered = np.vstack([boxes, box]), np.append(hidden, np.float32(0))
    return tuple(things)


def _candidates(rng: np.random.Generator, size: int) -> Iterator[Thing]:
    """Propose single objects of all sizes and, in some scenes, a crowd of small ones of a kind."""
    shares = [kind.share for kind in KINDS]
    for _ in range(rng.integers(1, 10)):
        kind = KINDS[rng.choice(len(KINDS), p=shares)]
        radius = size * math.exp(rng.uniform(math.log(0.04), math.log(0.24)))
        yield _thing(rng, kind, rng.uniform(0, size, 2), radius)
    if rng.random() < CROWD_SHARE:
        kind = KINDS[rng.choice(len(KINDS), p=shares)]
        centre, radius = rng.uniform(0.2, 0.8, 2) * size, size * rng.uniform(0.03, 0.055)
        for _ in range(rng.integers(5, 14)):
            yield _thing(rng, kind, rng.normal(centre, 3 * radius).clip(0, size), radius * rng.uniform(0.8, 1.25))


def _thing(rng: np.random.Generator, kind: Kind, place: Array, radius: float) -> Thing:
    base = rng.uniform(40, 215, 3).astype(np.float32)
    other = (base + rng.choice((-1, 1)) * rng.uniform(50, 110, 3)).clip(0, 255).astype(np.float32)
    aspect = rng.uniform(*kind.aspect)
    return Thing(
        kind, float(place[0]), float(place[1]), float(radius), aspect, rng.uniform(0, 2 * math.pi), (base, other)
    )


def _ground(rng: np.random.Generator, size: int) -> Array:
    """Noise of several octaves between three random colours, with ripples in some scenes; (size, size, 3)."""
    height = np.zeros((size, size), np.float32)
    for cells, weight in ((3, 0.5), (9, 0.25), (32, 0.25)):
        grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        height += weight * np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))
    if rng.random() < 0.5:
        y, x = (side / np.float32(size) for side in np.ogrid[:size, :size])
        direction, waves = rng.uniform(0, math.pi), rng.uniform(8, 40)
        height += 0.08 * np.sin(waves * (x * math.cos(direction) + y * math.sin(direction)) + 6 * height)
    colours = rng.uniform(30, 200) + rng.uniform(-40, 40, (3, 3))
    channels = [np.interp(height, (0.2, 0.5, 0.8), colours[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)
