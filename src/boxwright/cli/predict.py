"""`boxwright predict`: pictures with boxes, and their JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boxwright.cli.options import Device, Source, pick_device

if TYPE_CHECKING:
    from boxwright.engine.predict import Prediction

__all__ = ["predict"]


def predict(
    source: Source,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE|FOLDER|GLOB...", help="What to look at.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures and predictions.json.")] = Path("predictions"),
    score: Annotated[float, typer.Option(min=0, max=1, help="Show objects with at least this score.")] = 0.3,
    device: Device = None,
) -> None:
    """Find objects in images: a picture with boxes for each, and one JSON file."""
    import dataclasses

    from boxwright.engine.device import precision_to_predict
    from boxwright.engine.load import load_with_recipe
    from boxwright.engine.predict import find_images, predict_files

    find_images(images)  # so that a misspelt path fails before the network is built
    where = pick_device(device)
    detector, recipe = load_with_recipe(source, device=where)
    detector.postprocess = dataclasses.replace(detector.postprocess, score_threshold=score)
    precision = precision_to_predict(recipe.train.precision, where.partition(":")[0])
    predictions = predict_files(detector, images, output, score=score, precision=precision, report=_report)
    failed = sum(prediction.error is not None for prediction in predictions)
    typer.echo(f"pictures: {len(predictions) - failed}, in {output}; objects: {output / 'predictions.json'}")
    if failed:
        typer.secho(f"images that could not be read: {failed} of {len(predictions)}, see above", fg="red", err=True)
        raise typer.Exit(1)


def _report(prediction: "Prediction") -> None:
    if prediction.error is None:
        more = f" (in the first of {prediction.frames} frames)" if prediction.frames > 1 else ""
        typer.echo(f"{prediction.picture}: {prediction.counts()}{more}")
    else:
        typer.secho(prediction.error, fg="red", err=True)
