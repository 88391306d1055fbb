"""From a recipe and a data set to a run folder with a trained detector."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from lightning_fabric import Fabric
from rich.console import Console

from boxwright.counts import counted, listed
from boxwright.data.dataset import DetectionDataset, read_record
from boxwright.data.index import DataIndex, dataset_arguments, open_dataset
from boxwright.data.loader import Loader, bad_images, build_loader, verify_images
from boxwright.data.mix import Mix
from boxwright.data.records import ImageRecord
from boxwright.data.transforms import evaluation_transform, training_transform
from boxwright.engine.alternate import alternate, alternates
from boxwright.engine.anchors import settle_anchors
from boxwright.engine.checkpoint import read_header
from boxwright.engine.device import build_fabric
from boxwright.engine.evaluate import coco_ground_truth, evaluate
from boxwright.engine.folder import FolderLock, new_folder, refuse_taken, run_to_resume, same_recipe, together
from boxwright.engine.loop import seed_everything
from boxwright.engine.progress import print_line
from boxwright.engine.run import Run
from boxwright.engine.session import Evaluate, Session
from boxwright.errors import DataError, RecipeError, RunError
from boxwright.recipes import Recipe, build_detector, load_recipe
from boxwright.recipes.compatibility import remarks

__all__ = ["build_loaders", "train"]


def train(
    recipe: Recipe | str | Path | None = None,
    data: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    resume: str | Path | None = None,
    devices: int = 1,
    nodes: int = 1,
    on_nonfinite: Literal["stop", "skip"] = "stop",
    skip_bad: bool = False,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    splits: Mapping[str, str] | None = None,
    images: str | Path | None = None,
    one_based: bool | None = None,
    quiet: bool = False,
) -> Run:
    """Train a detector.

    Args:
        recipe: a recipe, its name or its file; not needed to resume.
        data: a data set that `open_dataset` can open, with splits `train` and `val`; not needed to resume, unless it
            has moved.
        overrides: changes of the recipe, such as `criterion.box.type=giou`.
        output: the run folder; by default `runs/` and the recipe's name.
        resume: a run folder to resume, or `auto`: the one at `output`, else the newest unfinished one of this
            recipe and data under `runs/`, else a new one.
        devices: processes per machine.
        nodes: machines.
        on_nonfinite: `stop` at a loss that is not finite, or `skip` the step and count it.
        skip_bad: leave out images that cannot be read, instead of stopping before the first epoch.
        format: see `open_dataset`.
        classes: see `open_dataset`.
        splits: see `open_dataset`.
        images: see `open_dataset`.
        one_based: see `open_dataset`.
        quiet: print nothing.

    Returns:
        The run.

    Raises:
        RecipeError: the recipe does not validate or does not fit the number of processes.
        DataError: the data set cannot be used.
        RunError: the run had to stop; says how to resume.
    """
    given = dataset_arguments(data, format, classes, splits, images, one_based) | {"skip_bad": skip_bad or None}
    resumed = run_to_resume(output, resume, recipe, data)
    swaps: list[str] = []
    recipe, source = _recipe_and_data(resumed, recipe, overrides, given, swaps.append)
    # looked for before the processes meet, so that none finds what another has made
    path = resumed.path if resumed is not None else new_folder(output, recipe)
    fabric = build_fabric(devices, nodes, recipe.train.precision)
    fabric.launch()
    console = Console() if fabric.is_global_zero and not quiet else None
    for line in swaps:
        print_line(console, line)
    run = Run(fabric.broadcast(path))
    with FolderLock(fabric, run.path, partial(print_line, console)) as lock:
        if resumed is not None:
            lock.take()
        _train(fabric, run, resumed, recipe, source, lock, on_nonfinite, console)
    return run


def _train(
    fabric: Fabric,
    run: Run,
    resumed: Run | None,
    recipe: Recipe,
    source: Mapping[str, Any],
    lock: FolderLock,
    on_nonfinite: Literal["stop", "skip"],
    console: Console | None,
) -> None:
    """Open the data, build the detector and train it in the folder of `run`, where `resumed` is None for a new one."""
    index = _open_data(fabric, source, resumed)
    where = f"{run.path}, {fabric.strategy.precision.precision}"
    for line in _first_lines(index, recipe, resumed, source["path"], where):
        print_line(console, line)
    recipe = settle_anchors(recipe, index.split("train"))
    training, validation = build_loaders(fabric, recipe, index, bool(source["skip_bad"]), console)
    seed_everything(recipe.train.seed)
    build: Any = partial(build_detector, recipe, index.class_names, class_counts=index.class_counts("train"))
    detector = build(pretrained=False if run.state_file.exists() else None)
    evaluator = _evaluator(fabric, index, validation)
    name = partial(_image_name, training.dataset.records)

    @cache
    def describe() -> None:  # only now that everything is in order, so that a refused attempt leaves no trace
        if resumed is None:
            lock.take()
        with together(fabric):
            if fabric.is_global_zero:
                if resumed is None:
                    refuse_taken(run.path)  # by another training that was started meanwhile
                Run.create(run.path, recipe, index.class_names, source, fabric.world_size)

    def fit_detector(run: Run, detector: Any, measured: bool = True) -> None:
        options: dict[str, Any] = {"on_nonfinite": on_nonfinite, "name": name, "started": describe, "console": console}
        measure = evaluator if measured else None
        Session(fabric, run, recipe, detector, training, measure, classes=index.class_names, **options).fit()

    if alternates(recipe):
        alternate(
            fabric,
            run,
            recipe,
            lambda pretrained: build(pretrained=pretrained),
            fit_detector,
            partial(print_line, console),
        )
    else:
        fit_detector(run, detector)
    if fabric.is_global_zero:
        print_line(console, _summary(run))


def _recipe_and_data(
    run: Run | None,
    recipe: Recipe | str | Path | None,
    overrides: Sequence[str],
    given: Mapping[str, Any],
    say: Callable[[str], None],
) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe and which data to open: those of the run to resume, changed by what is given."""
    if run is not None:
        same_recipe(run, recipe)
        changed = {key: value for key, value in given.items() if value is not None}
        return load_recipe(run.path / "recipe.yaml", overrides, say=say), run.data | changed
    if recipe is None or given["path"] is None:
        raise RunError("a new run needs a recipe and a data set: boxwright train --recipe NAME --data PATH")
    return recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides, say=say), dict(given)


def _open_data(fabric: Fabric, source: Mapping[str, Any], run: Run | None) -> DataIndex:
    """Open the data, which must have the classes of the run to resume."""
    options = {name: value for name, value in source.items() if name != "skip_bad"}
    if run is not None and source["path"] == run.data["path"] and not Path(source["path"]).exists():
        raise run.moved(source["path"])
    with fabric.rank_zero_first():  # the first parses, the others find its cache
        index = open_dataset(**options)
    if run is not None and list(index.class_names) != run.classes:
        pairs = zip_longest(run.classes, index.class_names)
        label = next(label for label, (before, now) in enumerate(pairs) if before != now)
        raise RunError(
            f"{run.path} was trained on the classes {listed(run.classes)}; the data now has "
            f"{listed(index.class_names)}; label {label} is the first that differs"
        )
    return index


def _first_lines(index: DataIndex, recipe: Recipe, run: Run | None, data: str, where: str) -> Iterator[str]:
    """Say what is trained on and where, and what about it may surprise."""
    yield index.describe()
    if run is not None and run.data["path"] != data:
        yield f"data: {data}, until now {run.data['path']}"
    if run is not None:
        yield from (f"{file} has been edited since the run's last session" for file in run.edited(recipe))
    yield from (*index.notes, *_missing_objects(index), *remarks(recipe), f"run: {where}")
    if run is not None and run.epochs_done >= recipe.schedule.epochs:
        yield f"nothing left to train: {counted(run.epochs_done, 'epoch')} done; for more, --set schedule.epochs=N"


def _missing_objects(index: DataIndex) -> Iterator[str]:
    """Name classes without objects; refuse data without any object."""
    train, val = index.class_counts("train"), index.class_counts("val")
    if not train.any():
        raise DataError("no image of train has an object, so that there is nothing to learn; see: boxwright data check")
    if missing := [name for name, count in zip(index.class_names, train.tolist(), strict=True) if not count]:
        yield f"no object in train: {listed(missing, most=10)}"
    if not val.any():
        yield "no object in val: there will be no AP, and no report"


def build_loaders(
    fabric: Fabric, recipe: Recipe, index: DataIndex, skip_bad: bool = False, console: Console | None = None
) -> tuple[Loader, Loader]:
    """Build the loaders of this process for training and validation.

    A micro-batch of this process is its share of the recipe's batch size.

    Raises:
        RecipeError: the batch size cannot be shared.
        DataError: an image cannot be read, and `skip_bad` is not set.
    """
    config, shares = recipe.data, recipe.train.accumulate * fabric.world_size
    if config.batch_size % shares:
        raise RecipeError(
            f"data.batch_size = {config.batch_size} cannot be shared by {fabric.world_size} processes with "
            f"train.accumulate = {recipe.train.accumulate}: choose a multiple of {shares}"
        )
    training: Sequence[ImageRecord] = index.split("train")
    validation: Sequence[ImageRecord] = index.split("val")
    bad = fabric.broadcast(verify_images(validation, decode=skip_bad) if fabric.is_global_zero else {})
    if not skip_bad:
        bad_training = fabric.broadcast(verify_images(training) if fabric.is_global_zero else {})
        if problems := [*bad_training.values(), *bad.values()]:
            raise bad_images(problems)
    elif bad:
        for problem in bad.values():
            print_line(console, f"skipped: {problem}")
        validation = [record for position, record in enumerate(validation) if position not in bad]
    common: dict[str, Any] = {
        "batch_size": config.batch_size // shares,
        "workers": config.workers,
        "rank": fabric.global_rank,
        "world_size": fabric.world_size,
        "square": config.size if isinstance(config.size, int) else None,
        "pin_memory": fabric.device.type == "cuda",
    }
    seed = recipe.train.seed
    short, long = config.size if isinstance(config.size, tuple) else (config.size, config.size)
    augmented = DetectionDataset(
        training,
        training_transform(config.size, **config.augment.model_dump()),
        read=partial(read_record, enough=2 * short),  # large photographs decode faster, and zoom keeps its detail
        seed=seed,
        skip_bad=skip_bad,
        mix=Mix(long, **config.mix.model_dump()),
    )
    plain = DetectionDataset(validation, evaluation_transform(config.size))
    return build_loader(augmented, shuffle=True, drop_last=True, seed=seed, **common), build_loader(plain, **common)


def _evaluator(fabric: Fabric, index: DataIndex, loader: Loader) -> Evaluate:
    """Return the function that measures a detector on the validation images."""
    truth: dict[str, Any] = {}
    if fabric.is_global_zero:
        truth = coco_ground_truth(loader.dataset.records, index.class_names, index.category_ids)
    precision = str(fabric.strategy.precision.precision)
    return partial(evaluate, loader=loader, ground_truth=truth, category_ids=index.category_ids, precision=precision)


def _image_name(records: Sequence[ImageRecord], image_id: int) -> str:
    return next((str(record.path) for record in records if record.image_id == image_id), str(image_id))


def _summary(run: Run) -> str:
    header = read_header(run.weights_path)
    score = header["metrics"].get("AP")
    best = "" if score is None else f"best AP {score:.3f} in epoch {header['epoch']}; "
    return f"{best}weights: {run.weights_path}"
