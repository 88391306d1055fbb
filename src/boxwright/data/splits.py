"""Splits: a validation set made where there is none, and images and boxes ordered by split."""

import hashlib
from collections import defaultdict
from collections.abc import Collection

import numpy as np

from boxwright.counts import counted
from boxwright.data.annotations import Annotations, BoxTable, ImageEntry
from boxwright.data.files import SPLITS


def make_validation(annotations: Annotations, fraction: float, seed: int, named: Collection[str]) -> list[str]:
    """Give a share of the training images to `val` where there is no `val`, and return a note that says so.

    The images with the smallest hashes of seed and file name are taken: the same ones on every machine, and nearly the
    same ones when images are added. A single split of another name, beside those `named` by the caller, is taken as
    `train` first.
    """
    entries = annotations.images
    names = {entry.split for entry in entries}
    notes = []
    unnamed = names.difference(named)
    if len(unnamed) == 1 and "train" not in names and not unnamed & set(SPLITS):
        (only,) = unnamed
        notes.append(f"the only{' other' * bool(named)} split, {only}, is taken as train")
        entries[:] = [entry._replace(split="train") if entry.split == only else entry for entry in entries]
        names = names - {only} | {"train"}
    numbers = [number for number, entry in enumerate(entries) if entry.split == "train"]
    if "val" in names or len(numbers) < 2:
        return notes

    def digest(number: int) -> bytes:
        original = entries[number].name.partition(".rf.")[0]  # of which Roboflow makes several, changed at random
        return hashlib.sha256(f"{seed} {original}".encode(errors="surrogateescape")).digest()

    count = min(max(round(fraction * len(numbers)), 1), len(numbers) - 1)
    for number in sorted(numbers, key=digest)[:count]:
        entries[number] = entries[number]._replace(split="val")
    notes.append(f"no val split: {count} of {len(numbers)} train images became val, by file name and seed {seed}")
    return notes


def shared_images(annotations: Annotations) -> list[str]:
    """Return a note for each split beside train that has images of it: what is measured there is too good."""
    folders = [str(folder) for folder in annotations.folders]  # a Path for each of many images takes seconds
    places: dict[str, set[str]] = defaultdict(set)
    for entry in annotations.images:
        places[entry.split].add(f"{folders[entry.folder]}/{entry.name}")
    train = places.pop("train", set())
    common = {split: len(train & paths) for split, paths in places.items()}
    return [
        f"{counted(count, 'image')} of {split} in train as well: what is measured there is too good"
        for split, count in common.items()
        if count
    ]


def by_split(
    entries: list[ImageEntry], boxes: BoxTable
) -> tuple[list[ImageEntry], BoxTable, list[tuple[str, int, int]]]:
    """Return images and boxes with every split in one piece, and (split, start, stop): train, val, test, others."""
    names = sorted({entry.split for entry in entries}, key=_position)
    rank = {name: i for i, name in enumerate(names)}
    owner_rank = np.array([rank[entry.split] for entry in entries], np.int64)
    order = np.argsort(owner_rank, kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    ends = np.cumsum(np.bincount(owner_rank, minlength=len(names))).tolist()
    splits = list(zip(names, [0, *ends[:-1]], ends, strict=True))
    return [entries[i] for i in order], boxes._replace(owner=position[boxes.owner]), splits


def _position(name: str) -> tuple[int, str]:
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)
