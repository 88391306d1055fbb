"""`boxwright train`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from boxwright.cli.options import (
    Classes,
    DataFormat,
    Images,
    OneBased,
    Overrides,
    SkipBad,
    Splits,
    dataset_options,
)

__all__ = ["train"]


def train(
    data: Annotated[Path | None, typer.Option(help="Folder or annotation file: COCO, Pascal VOC, YOLO or CSV.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A recipe's name (see `boxwright recipes`), or a YAML file.")
    ] = None,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option(help="Run folder; by default runs/RECIPE.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN|auto", help="Resume a run folder, or the newest unfinished one.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) on each machine.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    precision: Annotated[
        Literal["auto", "32-true", "bf16-mixed", "16-mixed"] | None, typer.Option(help="Instead of the recipe's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    on_nonfinite: Annotated[
        Literal["stop", "skip"], typer.Option(help="What to do when a loss is NaN or infinite.")
    ] = "stop",
    skip_bad: SkipBad = False,
    format: DataFormat = None,
    classes: Classes = None,
    split: Splits = None,
    images: Images = None,
    one_based: OneBased = None,
) -> None:
    """Train a detector on a folder of annotated images, and report what it learned."""
    from boxwright.distributed import is_first
    from boxwright.engine import train
    from boxwright.study import write_report

    changes = list(overrides or ())
    changes += [] if precision is None else [f"train.precision={precision}"]
    changes += [] if seed is None else [f"train.seed={seed}"]
    run = train(
        recipe,
        data,
        overrides=changes,
        output=output,
        resume=resume,
        devices=devices,
        nodes=nodes,
        on_nonfinite=on_nonfinite,
        skip_bad=skip_bad,
        **dataset_options(format, classes, split, images, one_based),
    )
    if is_first() and (page := write_report(run)) is not None:
        typer.echo(f"report: {page}")
