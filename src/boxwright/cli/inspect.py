"""`boxwright inspect`: what each assigner will do with a data set, before any training."""

from pathlib import Path
from typing import Annotated, Any

import typer

from boxwright.cli.options import Classes, DataFormat, Images, class_list
from boxwright.cli.recipes import Overrides

__all__ = ["inspect"]


def inspect(
    data: Annotated[Path, typer.Option(help="Folder or annotation file: COCO, Pascal VOC, YOLO or CSV.")],
    pictures: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Look at these images of the data set only.")
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(help="Gives input size, priors and its own assigner: a name (see `boxwright recipes`) or file."),
    ] = "retinanet-tiny",
    overrides: Overrides = None,
    assigner: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Assigners to compare; with arguments as in max-iou:low_quality=none."),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="NAME[=PATH]", help="The split to look at, and its annotations.")
    ] = "train",
    show: Annotated[int, typer.Option(min=0, help="How many images to draw.")] = 12,
    sweep: Annotated[bool, typer.Option(help="Also try other thresholds and k.")] = True,
    output: Annotated[Path, typer.Option(help="The page; its numbers are written beside it as JSON.")] = Path(
        "inspect.html"
    ),
    format: DataFormat = None,
    classes: Classes = None,
    images: Images = None,
) -> None:
    """Show what assigners do with the objects of a data set: one HTML page that needs no network."""
    import json
    import sys

    from rich.progress import Progress

    from boxwright.data.index import open_dataset
    from boxwright.files import write_text
    from boxwright.recipes import load_recipe
    from boxwright.study import inspect_data, inspect_page

    chosen = load_recipe(recipe, overrides or ())
    name, _, path = split.partition("=")
    index = open_dataset(
        data, format=format, classes=class_list(classes), splits={name: path} if path else None, images=images
    )
    typer.echo("\n".join([index.describe(), *index.notes]))
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("images")
        report = inspect_data(
            index,
            chosen,
            split=name,
            images=pictures or (),
            assigners=None if assigner is None else [name.strip() for name in assigner.split(",")],
            sweep=sweep,
            show=show,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_text(output, inspect_page(report))
    write_text(output.with_suffix(".json"), json.dumps(report))
    _print(report)
    typer.echo(f"page: {output}, numbers: {output.with_suffix('.json')}")


def _print(report: dict[str, Any]) -> None:
    """Print the assigners' main numbers and what does not fit."""
    from rich.console import Console
    from rich.table import Table

    table = Table("assigner", "objects without positives", "positives per object", "lost", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for entry in report["assigners"]:
        found = entry["summary"]["all"]
        positives, lost = found["positives_per_object"] or 0, found["lost_share"] or 0
        table.add_row(
            entry["name"], f"{found['unmatched']:,} of {found['objects']:,}", f"{positives:.2f}", f"{lost:.1%}"
        )
    Console(highlight=False).print(table)
    for advice in report["fit"]["advice"]:
        typer.echo(f"{advice['objects']:,} objects {advice['what']}. {advice['help']}")
