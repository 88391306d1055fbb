"""From a data set and a recipe to everything that the page and the JSON say."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

import boxwright
from boxwright.data.index import DataIndex, Records
from boxwright.data.loader import readable
from boxwright.data.records import ImageRecord
from boxwright.engine.score import match_classes
from boxwright.errors import DataError
from boxwright.recipes import Recipe, build_detector
from boxwright.study.inspection.assigner_choices import Choice, choices
from boxwright.study.inspection.evidence import Evidence
from boxwright.study.inspection.gallery import gallery, pick
from boxwright.study.inspection.inputs import InputBatch, Inputs, PriorGenerator
from boxwright.study.inspection.network import Network, Outputs, pixels_of
from boxwright.study.inspection.object_groups import BINS, Axis, Cells, axes, describe
from boxwright.study.inspection.prior_fit import fit_report
from boxwright.study.inspection.relabel import relabel
from boxwright.study.inspection.tally import Tally

__all__ = ["inspect_data"]

_LISTED: Final = 1000  # objects without positives that are listed one by one
_IMAGES_AT_ONCE: Final = 8  # that a network looks at
Progress = Callable[[int, int], None]


def inspect_data(
    index: DataIndex,
    recipe: Recipe,
    *,
    split: str = "train",
    images: Sequence[str] = (),
    assigners: Sequence[str] | None = None,
    sweep: bool = True,
    show: int = 12,
    network: Network | None = None,
    skip: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run assigners over the boxes of a data set, before any training or with a run's network, and report what they do.

    Args:
        index: the data set.
        recipe: gives the input size, the priors and its own assigner.
        split: which split.
        images: look at these images only, by name or path.
        assigners: see `choices`.
        sweep: also try other values of each assigner's main setting.
        show: how many images to draw; all of `images` where those are given.
        network: of a run of this recipe, for assigners that look at predictions; see `Network.of_run`.
        skip: called with the problem of an image that cannot be read and is left out; None refuses such images where
            the network must see them.
        progress: called with the number of images done, and of how many.

    Returns:
        A JSON-ready report: `cells` are the kinds of objects (size, aspect, crowding, class), and `counts` of every
        step of every assigner has one row per cell: objects by number of positives (`bins`), positives by level,
        wanted, lost. `summary` says the same in words.

    Raises:
        DataError: there is no such split or image, or no object in them all; with a network, an image cannot be read or
            a class is unknown to it.
        RecipeError: an assigner is unknown or cannot be inspected.
    """
    records: Sequence[ImageRecord] = index.split(split)
    if images:
        records = [records[i] for i in find_images(index.split(split), images)]
    if network is not None or skip is not None:
        records = readable(records, skip)
    class_names = index.class_names
    if network is not None:
        class_names = network.after.detector.class_names
        records = with_labels_of(records, index, class_names)
    stages = () if network is None else network.stages
    chosen = choices(recipe, assigners, stages=[stage.name for stage in stages], sweep=sweep)
    prior_generator: Any = build_detector(recipe, class_names, pretrained=False).priors
    inputs = Inputs.of(records, recipe.data.size)
    if not (images or network or len(inputs) or inputs.vanished):
        raise DataError(f"no image of {split} has an object, so that there is nothing to look at")
    cells = Cells(axes(inputs, class_names))
    evidence = None if network is None else Evidence.empty(network, len(inputs))
    tallies = _run(inputs, records, prior_generator, chosen, network, evidence, progress)
    usual = {choice.name: tally[choice.usual] for choice, tally in zip(chosen, tallies, strict=True)}
    looked_at = dict.fromkeys(range(len(records)), "asked for") if images else pick(inputs, usual, show)
    return {
        "boxwright": boxwright.__version__,
        "data": {
            "describe": index.describe(),
            "split": split,
            "images": len(records),
            "objects": len(inputs),
            "vanished": inputs.vanished,
            "classes": list(class_names),
        },
        "recipe": {"name": recipe.name, "size": recipe.data.size, "strides": list(prior_generator.strides)},
        "stages": [stage.name for stage in stages],
        "missing": "" if network is None else network.missing,
        "bins": list(BINS),
        "axes": [_axis(axis) for axis in cells.axes],
        "cells": cells.keys.tolist(),
        "assigners": [_assigner(c, t, cells) for c, t in zip(chosen, tallies, strict=True)],
        "fit": fit_report(inputs, prior_generator),
        "unmatched": {name: _unmatched(inputs, records, tally) for name, tally in usual.items()},
        "relabel": None if evidence is None else relabel(inputs, records, class_names, *evidence.weighed(inputs)),
        "images": _grouped(
            gallery(inputs, records, prior_generator, chosen, looked_at, network), looked_at, inputs, cells.axes
        ),
    }


def find_split(index: DataIndex, names: Sequence[str]) -> str:
    """Return the first split, `train` before others, that holds all images of these names.

    Raises:
        DataError: there is none.
    """
    for split in sorted(index.splits, key=lambda name: name != "train"):
        try:
            find_images(index.split(split), names)
        except DataError as error:
            problem = error
        else:
            return split
    if len(index.splits) == 1:
        raise problem
    raise DataError(f"no split of {', '.join(index.splits)} holds {', '.join(names)}; name one with --split")


def find_images(records: Records, names: Sequence[str]) -> list[int]:
    """Return which records are named, by a path or the end of one.

    Raises:
        DataError: a name fits no image, or several.
    """
    found: dict[int, None] = {}
    known = [records.name(i) for i in range(len(records))]
    for name in names:
        path = PurePosixPath(Path(name).as_posix())
        hits = [i for i, own in enumerate(known) if PurePosixPath(own).match(str(path)) or path.match(own)]
        if len(hits) != 1:
            what = "no image" if not hits else f"{len(hits)} images, such as {known[hits[0]]} and {known[hits[1]]}"
            raise DataError(f"{name!r} names {what} of this split; give its path inside the image folder")
        found[hits[0]] = None
    return list(found)


def _grouped(
    images: list[dict[str, Any]], chosen: Iterable[int], inputs: Inputs, axes: Sequence[Axis]
) -> list[dict[str, Any]]:
    """Add to the objects of images the group that each belongs to on every axis."""
    for entry, image in zip(images, chosen, strict=True):
        for row, object_ in enumerate(entry["objects"], start=int(inputs.first[image])):
            object_["groups"] = [int(axis.member[row]) for axis in axes]
    return images


def with_labels_of(
    records: Sequence[ImageRecord], index: DataIndex, class_names: Sequence[str]
) -> Sequence[ImageRecord]:
    """Return records with the labels that a detector of these classes learns.

    Raises:
        DataError: the data set has a class that the detector does not know.
    """
    match_classes(class_names, index)
    if tuple(class_names) == tuple(index.class_names):
        return records
    label = torch.tensor([list(class_names).index(name) for name in index.class_names])
    return [replace(record, labels=label[record.labels]) for record in records]


def _run(
    inputs: Inputs,
    records: Sequence[ImageRecord],
    prior_generator: PriorGenerator,
    chosen: Sequence[Choice],
    network: Network | None,
    evidence: Evidence | None,
    progress: Progress | None,
) -> list[list[Tally]]:
    """Run every step of every assigner over all images, and gather what the trained network says of the annotations."""
    tallies = [[Tally.empty(len(inputs), len(prior_generator.strides)) for _ in choice.steps] for choice in chosen]
    done = 0
    with ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for batch, outputs in _outputs(inputs, records, prior_generator, network):
            jobs = [
                pool.submit(counts.add, batch, step.assigner, choice.predictions(outputs))
                for choice, tally in zip(chosen, tallies, strict=True)
                for step, counts in zip(choice.steps, tally, strict=True)
            ]
            if evidence is not None:
                evidence.add(batch, outputs[0].predictions)
            for job in jobs:
                job.result()
            done += len(batch.frames)
            if progress is not None:
                progress(done, len(inputs.frames))
    return tallies


def _outputs(
    inputs: Inputs, records: Sequence[ImageRecord], prior_generator: PriorGenerator, network: Network | None
) -> Iterator[tuple[InputBatch, list[Outputs]]]:
    """Yield all images in batches, with what every stage of the network says about them."""
    if network is None:
        for batch in inputs.batches(prior_generator):
            yield batch, []
        return
    data = network.recipe.data
    batches = inputs.batches(prior_generator, most=_IMAGES_AT_ONCE)
    for batch, pixels in pixels_of(records, batches, data.size, data.workers):
        yield batch, [stage.predict(pixels) for stage in network.stages]


def _axis(axis: Axis) -> dict[str, Any]:
    return {"key": axis.key, "title": axis.title, "note": axis.note, "values": list(axis.values)}


def _assigner(choice: Choice, tallies: Sequence[Tally], cells: Cells) -> dict[str, Any]:
    counts = [cells.counts(tally) for tally in tallies]
    usual = counts[choice.usual]
    return {
        "name": choice.name,
        "assigner": repr(choice.assigner),
        "stage": choice.stage,
        "setting": choice.setting,
        "usual": choice.usual,
        "steps": [
            {
                "value": step.value,
                "counts": count.tolist(),
                "priors": tally.priors.tolist(),
                "summary": _summary(count, tally),
            }
            for step, count, tally in zip(choice.steps, counts, tallies, strict=True)
        ],
        "summary": {"all": _summary(usual, tallies[choice.usual])} | cells.by_axis(usual),
    }


def _summary(counts: NDArray[np.int64], tally: Tally) -> dict[str, Any]:
    """Describe all objects, the share of ignored priors, and background priors per positive."""
    positive, ignored, background = tally.priors.sum(axis=0).tolist()
    return describe(counts.sum(axis=0)) | {
        "ignored_share": ignored / max(positive + ignored + background, 1),
        "negatives_per_positive": background / positive if positive else None,
    }


def _unmatched(inputs: Inputs, records: Sequence[ImageRecord], tally: Tally) -> list[dict[str, Any]]:
    """List the first objects without positives, with their boxes in the pixels of the stored image."""
    rows = np.flatnonzero(tally.positives.sum(axis=1) == 0)[:_LISTED]
    listed = []
    for row in rows.tolist():
        frame, record = inputs.frames[inputs.image[row]], records[int(inputs.image[row])]
        box = (inputs.boxes[row] * np.array(frame.to_stored(record))).round(1).tolist()
        listed.append({"image": record.path.name, "class": int(inputs.labels[row]), "box": box})
    return listed
