"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from boxwright.errors import BoxwrightError

if TYPE_CHECKING:
    from rich.table import Table

DataFormat = Annotated[
    Literal["coco", "voc", "yolo", "csv"] | None, typer.Option(help="Where the path holds several formats.")
]
Classes = Annotated[str | None, typer.Option(help="Class names in label order, separated by commas.")]
Images = Annotated[Path | None, typer.Option(help="Folder of the images, where it is not found.")]
OneBased = Annotated[
    bool | None, typer.Option("--one-based/--zero-based", help="From what Pascal VOC counts pixels; else detected.")
]
Source = Annotated[Path, typer.Argument(metavar="RUN|WEIGHTS", help="A run folder, or a .safetensors file of one.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")]
Splits = Annotated[list[str] | None, typer.Option("--split", metavar="NAME=PATH", help="What a split is; repeatable.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a field, for example criterion.box.type=giou; repeatable."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; by default a GPU if there is one.")]


def comma_list(names: str | None) -> list[str] | None:
    """Split a value such as that of `--classes` at its commas."""
    return None if names is None else [name.strip() for name in names.split(",")]


def dataset_options(
    format: str | None, classes: str | None, split: list[str] | None, images: Path | None, one_based: bool | None
) -> dict[str, Any]:
    """Return the options that say which data set as keyword arguments of `open_dataset`."""
    return {
        "format": format,
        "classes": comma_list(classes),
        "splits": split_map(split),
        "images": images,
        "one_based": one_based,
    }


def skipping(skip_bad: bool, run: Path | None, data: Path | None) -> Callable[[str], None] | None:
    """Return what prints the images left out; None where neither `--skip-bad` nor the run itself leaves any out."""
    from boxwright.engine import Run

    if not skip_bad and (run is None or data is not None or not Run.open(run).data.get("skip_bad")):
        return None
    return lambda problem: typer.echo(f"skipped: {problem}", err=True)


def split_map(arguments: list[str] | None) -> dict[str, str] | None:
    """Read the values of `--split`, NAME=PATH.

    Raises:
        BoxwrightError: a value that does not read so.
    """
    if not arguments:
        return None
    pairs = [argument.partition("=") for argument in arguments]
    for argument, (name, _, path) in zip(arguments, pairs, strict=True):
        if not name or not path:
            raise BoxwrightError(f"--split {argument!r} must read NAME=PATH, for example --split val=valid.json")
    return {name: path for name, _, path in pairs}


def number_table(*columns: str, **style: Any) -> "Table":
    """Return a table whose first column holds words and the others numbers; `style` as for `rich.table.Table`.

    Where there is little room, words go on in the next line and numbers stay whole.
    """
    from rich.table import Table

    table = Table(*columns, **style)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    return table


def pick_device(name: str | None) -> str:
    """Return the device asked for, by default a GPU if there is one.

    Raises:
        RunError: there is no such device.
    """
    import torch

    from boxwright.errors import RunError

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise RunError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return name
