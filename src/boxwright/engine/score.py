"""From a run or weight file and a data set to COCO's numbers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from boxwright.counts import listed
from boxwright.data.dataset import DetectionDataset
from boxwright.data.index import DataIndex, open_dataset
from boxwright.data.loader import build_loader, lost_workers, readable
from boxwright.data.transforms import evaluation_transform
from boxwright.engine.coco import Metrics
from boxwright.engine.device import precision_to_predict
from boxwright.engine.evaluate import coco_ground_truth, evaluate
from boxwright.engine.load import load_with_recipe
from boxwright.engine.run import Run
from boxwright.errors import DataError, RunError

__all__ = ["evaluate_source", "match_classes", "open_data"]

_BATCH = 8


def evaluate_source(
    source: str | Path,
    index: DataIndex,
    *,
    split: str = "val",
    device: torch.device | str = "cpu",
    skip: Callable[[str], None] | None = None,
) -> Metrics:
    """Evaluate a trained detector on a split of a data set.

    Args:
        source: a run folder or weight file.
        index: the data set; its classes are matched with the detector's by name.
        split: which of its splits.
        device: where to compute.
        skip: called with the problem of an image that cannot be read and is left out; None refuses such images.

    Raises:
        RunError: the detector cannot be loaded, or a loader process is killed.
        DataError: there is no such split, an image cannot be read, or a class is unknown to the detector.
    """
    detector, recipe = load_with_recipe(source, device=device)
    category_ids = match_classes(detector.class_names, index)
    records = readable(index.split(split), skip)
    size = recipe.data.size
    loader = build_loader(
        DetectionDataset(records, evaluation_transform(size)),
        batch_size=min(_BATCH, recipe.data.batch_size),
        workers=recipe.data.workers,
        square=size if isinstance(size, int) else None,
    )
    truth = coco_ground_truth(records, index.class_names, index.category_ids)
    precision = precision_to_predict(recipe.train.precision, torch.device(device).type)
    with lost_workers():
        return evaluate(detector, loader, truth, category_ids=category_ids, precision=precision)


def open_data(source: str | Path, data: str | Path | None, **options: Any) -> DataIndex:
    """Open a data set, by default the one that a run was trained on.

    Args:
        source: a run folder or weight file.
        data: path of a data set; None takes the run's.
        options: as for `open_dataset`; without `data` they stand instead of the run's, and `splits` beside them.

    Raises:
        RunError: there is no `data`, and `source` is no run folder that says which it was, or it is not there any more.
    """
    if data is not None:
        return open_dataset(data, **options)
    if not (Path(source) / "data.json").is_file():
        raise RunError(f"say which data set to evaluate {source} on: --data PATH")
    arguments = (run := Run.open(source)).data
    if not Path(arguments["path"]).exists():
        raise run.moved(arguments["path"])
    given = {name: value for name, value in options.items() if value is not None}
    if "splits" in given:
        given["splits"] = (arguments.get("splits") or {}) | given["splits"]
    return open_dataset(**{name: value for name, value in arguments.items() if name != "skip_bad"} | given)


def match_classes(class_names: Sequence[str], index: DataIndex) -> list[int | None]:
    """Return the data set's category id of every class of a detector; None for a class that the data set lacks.

    Raises:
        DataError: the data set has a class that the detector does not know.
    """
    if tuple(class_names) == tuple(index.class_names):
        return list(index.category_ids)
    ids: Mapping[str, int] = dict(zip(index.class_names, index.category_ids, strict=True))
    unknown = [name for name in index.class_names if name not in class_names]
    if unknown:
        raise DataError(
            f"the data set has classes that the detector was not trained on: {listed(unknown)}; it knows "
            f"{listed(class_names)}. Give the data set's classes in label order with --classes if they are the same"
        )
    return [ids.get(name) for name in class_names]
