"""`boxwright export`: a trained detector for other runtimes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from boxwright.cli.options import Source

__all__ = ["export"]


def export(
    source: Source,
    format: Annotated[Literal["onnx"], typer.Option(help="What to write.")] = "onnx",
    output: Annotated[Path | None, typer.Option(help="The file; by default beside the weights.")] = None,
    batch: Annotated[int, typer.Option(min=0, help="Images per call; 0 leaves it open.")] = 1,
    nms: Annotated[bool, typer.Option("--nms", help="Suppress duplicates inside the file.")] = False,
    images: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGE|FOLDER|GLOB", help="Images to check the file on; by default the run's validation."),
    ] = None,
) -> None:
    """Write a detector as ONNX, and check it with onnxruntime against PyTorch on real images."""
    from boxwright.engine.export import check_images, compare_onnx, export_onnx
    from boxwright.engine.load import find_weights, load

    weights = find_weights(source)
    files = check_images(source, images)  # so that a misspelt path fails before the network is built
    path = output or weights.with_suffix(f".{format}")
    detector = load(source)
    export_onnx(detector, path, batch=batch or None, nms=nms)
    typer.echo(f"written: {path}")
    typer.echo(compare_onnx(path, detector, files, batch=batch or None, nms=nms))
