"""`boxwright eval`: COCO's numbers for a trained detector."""

import json
from pathlib import Path
from typing import Annotated

import typer

from boxwright.cli.options import (
    Classes,
    DataFormat,
    Device,
    Images,
    OneBased,
    SkipBad,
    Source,
    comma_list,
    pick_device,
    skipping,
)
from boxwright.counts import counted

__all__ = ["evaluate"]


def evaluate(
    source: Source,
    data: Annotated[
        Path | None, typer.Option(help="The data set; by default the one that the run was trained on.")
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME[=PATH]", help="The split to use, and its annotations.")] = "val",
    format: DataFormat = None,
    classes: Classes = None,
    images: Images = None,
    one_based: OneBased = None,
    skip_bad: SkipBad = False,
    predictions: Annotated[
        Path | None, typer.Option(help="Write the detections to this file, in COCO's results format.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    device: Device = None,
) -> None:
    """Evaluate a trained detector: COCO's twelve numbers, and the AP of every class."""
    from boxwright.engine.load import find_weights
    from boxwright.engine.score import evaluate_source, open_data
    from boxwright.files import write_text

    find_weights(source)  # so that a misspelt path fails before a data set is parsed
    name, _, path = split.partition("=")
    index = open_data(
        source,
        data,
        format=format,
        classes=comma_list(classes),
        splits={name: path} if path else None,
        images=images,
        one_based=one_based,
    )
    if not as_json:
        typer.echo("\n".join([index.describe(), *index.notes]))
    skip = skipping(skip_bad, source, data)
    metrics = evaluate_source(source, index, split=name, device=pick_device(device), skip=skip)
    numbers = metrics.to_json()
    measured = f"measured on {name}: {counted(numbers['images'], 'image')}"
    typer.echo(json.dumps(numbers, indent=1) if as_json else f"{measured}\n\n{metrics}")
    if predictions is not None:
        write_text(predictions, json.dumps(metrics.predictions))
