"""`boxwright data`: check, convert and count a data set."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from boxwright.cli.options import Classes, DataFormat, Images, OneBased, Splits, dataset_options, number_table
from boxwright.counts import counted

if TYPE_CHECKING:
    from boxwright.data.check import Report
    from boxwright.data.check_images import Look
    from boxwright.data.findings import Finding
    from boxwright.data.stats import Statistics

app = typer.Typer(no_args_is_help=True, help="Check, convert, count and draw data sets.")

DataPath = Annotated[Path, typer.Argument(metavar="PATH", help="Folder or annotation file of a data set.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_COLOURS = {"error": typer.colors.RED, "warning": typer.colors.YELLOW, "info": typer.colors.BLUE}


@app.command()
def check(
    path: DataPath,
    format: DataFormat = None,
    classes: Classes = None,
    split: Splits = None,
    images: Images = None,
    one_based: OneBased = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when there are warnings.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="Findings shown of each kind; 0 shows all.")] = 10,
    as_json: Json = False,
) -> None:
    """Find everything that is wrong with a data set; exit with 2 on errors, 1 on warnings with --strict."""
    from rich.console import Console
    from rich.progress import track

    from boxwright.data.check import check_dataset

    console = Console(stderr=True)

    def watch(looks: "Iterable[Look]", total: int) -> "Iterable[Look]":
        hidden = not console.is_terminal
        return track(looks, "reading images", total, console=console, transient=True, disable=hidden)

    report = check_dataset(path, **dataset_options(format, classes, split, images, one_based), watch=watch)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _print_report(report, limit, path)
    raise typer.Exit(report.exit_code(strict))


@app.command("convert")
def convert_command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder or annotation file of a data set.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The new folder.")],
    to: Annotated[Literal["coco", "voc", "yolo"], typer.Option(help="The format to write.")],
    format: DataFormat = None,
    classes: Classes = None,
    split: Splits = None,
    images: Images = None,
    one_based: OneBased = None,
) -> None:
    """Write a data set with its images in another format."""
    from boxwright.data.convert import convert
    from boxwright.data.index import open_dataset

    index = open_dataset(source, **dataset_options(format, classes, split, images, one_based))
    for note in (index.describe(), *index.notes, *convert(index, target, to)):
        typer.echo(note)
    typer.echo(f"written: {target}")


@app.command()
def stats(
    path: DataPath,
    format: DataFormat = None,
    classes: Classes = None,
    split: Splits = None,
    images: Images = None,
    one_based: OneBased = None,
    as_json: Json = False,
) -> None:
    """Count images, objects, classes and sizes."""
    from boxwright.data.index import open_dataset

    index = open_dataset(path, **dataset_options(format, classes, split, images, one_based))
    statistics = index.statistics()
    if as_json:
        typer.echo(json.dumps({"title": index.describe(), "notes": index.notes, **statistics.to_dict()}, indent=2))
        return
    for note in (index.describe(), *index.notes):
        typer.echo(note)
    _print_statistics(statistics)


@app.command()
def synth(
    target: Annotated[Path, typer.Argument(metavar="DST", help="The new folder.")],
    train: Annotated[int, typer.Option(min=1, help="Scenes to train on.")] = 400,
    val: Annotated[int, typer.Option(min=1, help="Scenes to validate on.")] = 100,
    size: Annotated[int, typer.Option(min=32, help="Side of the square pictures in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other scenes.")] = 0,
) -> None:
    """Draw synthetic scenes and write them as a COCO data set."""
    from boxwright.data.synth import write_synthetic

    write_synthetic(target, train=train, val=val, size=size, seed=seed)
    typer.echo(f"written: {target}, {train} + {val} scenes of {size}x{size} pixels")


def _print_report(report: "Report", limit: int, path: Path) -> None:
    """Print statistics and findings by kind, with paths relative to the data folder."""
    root = str(path.absolute() if path.is_dir() else path.absolute().parent) + os.sep
    for note in (report.title, *report.notes):
        typer.echo(note)
    if report.statistics is not None:
        _print_statistics(report.statistics)
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in report:
        by_kind[finding.kind].append(finding)
    for kind, findings in by_kind.items():
        severity = findings[0].severity
        typer.secho(f"\n{severity}: {kind} ({len(findings)})", fg=_COLOURS[severity], bold=True)
        shown = findings if limit == 0 else findings[:limit]
        for finding in shown:
            typer.echo(f"  {finding.text.replace(root, '')}")
        if len(shown) < len(findings):
            typer.echo(f"  … and {len(findings) - len(shown)} more (--limit 0 shows all)")
        typer.echo(f"  → {findings[0].advice}")
    typer.echo("\n" + ", ".join(counted(count, name) for name, count in report.severities.items()))


def _print_statistics(statistics: "Statistics") -> None:
    """Print images, classes and sizes by split."""
    from rich.console import Console
    from rich.markup import escape

    table = number_table("", *statistics.splits, "all", "share")
    parts = list(statistics.splits.values())
    objects = sum(part.objects for part in parts)
    for label, counts in {
        "images": [part.images for part in parts],
        "without objects": [part.background for part in parts],
        "crowd regions": [part.crowd for part in parts],
        "objects": [part.objects for part in parts],
    }.items():
        table.add_row(label, *map(str, counts), str(sum(counts)), "")
    table.add_section()
    for name, total in sorted(statistics.classes.items(), key=lambda item: -item[1]):
        counts = [part.classes[name] for part in parts]
        table.add_row(escape(name), *map(str, counts), str(total), f"{total / max(objects, 1):.1%}")
    table.add_section()
    for name, share in statistics.sizes.items():
        counts = [part.sizes[name] for part in parts]
        table.add_row(f"{name} objects", *map(str, counts), str(sum(counts)), f"{share:.1%}")
    Console().print(table)
