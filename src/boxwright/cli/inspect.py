"""`boxwright inspect`: what each assigner does with a data set, before a training or with what a run has learned."""

from pathlib import Path
from typing import Annotated, Any

import typer

from boxwright.cli.options import (
    Classes,
    DataFormat,
    Device,
    Images,
    Overrides,
    SkipBad,
    comma_list,
    number_table,
    pick_device,
    skipping,
)
from boxwright.errors import BoxwrightError

__all__ = ["inspect"]


def inspect(
    pictures: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Look at these images of the data set only.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder or annotation file: COCO, Pascal VOC, YOLO or CSV; by default the run's."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|WEIGHTS",
            help="A run folder or a .safetensors file of one: adds assigners that look at predictions, heat maps, "
            "losses, and boxes to look at again.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Gives input size, priors and its own assigner: a name (see `boxwright recipes`) or file. By default "
            "the run's, or retinanet-tiny."
        ),
    ] = None,
    overrides: Overrides = None,
    assigner: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Assigners to compare; with arguments as in max-iou:low_quality=none."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[=PATH]",
            help="The split to look at, and its annotations; by default train, or the one that holds the images.",
        ),
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="How many images to draw.")] = 12,
    sweep: Annotated[bool, typer.Option(help="Also try other thresholds and k.")] = True,
    output: Annotated[
        Path,
        typer.Option(help="The page, NAME.html, or a folder for it; its numbers are written beside it as JSON."),
    ] = Path("inspect.html"),
    format: DataFormat = None,
    classes: Classes = None,
    images: Images = None,
    skip_bad: SkipBad = False,
    device: Device = None,
) -> None:
    """Show what assigners do with the objects of a data set: one HTML page that needs no network."""
    import sys

    from rich.progress import Progress

    from boxwright.engine.score import open_data
    from boxwright.recipes import load_recipe
    from boxwright.study import inspect_data
    from boxwright.study.inspection.network import Network
    from boxwright.study.inspection.report import find_split

    if run is not None and (recipe is not None or overrides):
        raise BoxwrightError("a run brings its own recipe: leave out --recipe and --set, or --run")
    if run is None and data is None:
        raise BoxwrightError("say what to look at: --data PATH, or --run RUN for a run and its data set")
    page = _page_path(output)
    name, _, path = (split or "").partition("=")
    index = open_data(
        run or "",
        data,
        format=format,
        classes=comma_list(classes),
        splits={name: path} if path else None,
        images=images,
    )
    typer.echo("\n".join([index.describe(), *index.notes]))
    name = name or (find_split(index, pictures) if pictures else "train")
    network = None
    if run is not None:
        network = Network.of_run(run, index, device=pick_device(device))
        if network.missing:
            typer.echo(f"nothing is shown of the time before the training: {network.missing}")
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task("images")
        report = inspect_data(
            index,
            network.recipe
            if network is not None
            else load_recipe(recipe or "retinanet-tiny", overrides or (), say=typer.echo),
            split=name,
            images=pictures or (),
            assigners=comma_list(assigner),
            sweep=sweep,
            show=show,
            network=network,
            skip=skipping(skip_bad, run, data),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    written = _write(report, page)
    _print(report)
    typer.echo(", ".join(f"{what}: {where}" for what, where in written.items()))


def _page_path(output: Path) -> Path:
    page = output if output.suffix.lower() in (".html", ".htm") else output / "inspect.html"
    file = next((folder for folder in page.parents if folder.exists() and not folder.is_dir()), None)
    if file is not None:
        raise BoxwrightError(f"--output {output}: {file} is a file, not a folder; name another folder, or NAME.html")
    return page


def _write(report: dict[str, Any], page: Path) -> dict[str, Path]:
    """Write the page and what belongs to it; return the files by what they hold."""
    import json

    from boxwright.files import write_text
    from boxwright.study import inspect_page, relabel_csv

    texts = {"page": (page, inspect_page(report)), "numbers": (page.with_suffix(".json"), json.dumps(report))}
    if report["relabel"] is not None:
        file = page.with_name(f"{page.stem}-relabel.csv")
        texts["boxes to look at again"] = (file, relabel_csv(report["relabel"]))
    for file, text in texts.values():
        write_text(file, text)
    return {what: file for what, (file, _) in texts.items()}


def _print(report: dict[str, Any]) -> None:
    """Print the assigners' main numbers and what does not fit."""
    from rich.console import Console

    columns = ("assigner", "objects without positives", "positives per object", "lost")
    table = number_table(*columns, box=None, pad_edge=False)
    for entry in report["assigners"]:
        found = entry["summary"]["all"]
        positives, lost = found["positives_per_object"] or 0, found["lost_share"] or 0
        table.add_row(
            entry["name"], f"{found['unmatched']:,} of {found['objects']:,}", f"{positives:.2f}", f"{lost:.1%}"
        )
    Console(highlight=False).print(table)
    objects = report["data"]["objects"] + report["data"]["vanished"]
    for advice in report["fit"]["advice"]:
        typer.echo(f"{advice['objects']:,} of {objects:,} objects {advice['what']}. {advice['help']}")
    if anchors := report["fit"]["anchors"]:
        typer.echo(anchors["advice"])
