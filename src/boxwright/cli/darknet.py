"""`boxwright darknet`: darknet's own files."""

from pathlib import Path
from typing import Annotated

import typer

from boxwright.cli.options import Source

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Read and write darknet's .cfg, .weights and .names.")


@app.command("read")
def read(
    cfg: Annotated[Path, typer.Argument(help="The network.")],
    weights: Annotated[Path, typer.Argument(help="Its weights.")],
    names: Annotated[Path, typer.Option(help="Class names, one per line.")],
    output: Annotated[Path | None, typer.Option(help="By default the weights' name with .safetensors.")] = None,
) -> None:
    """Turn a network of darknet into a weight file that predict, eval and export take."""
    from boxwright.engine.darknet import import_darknet

    path = output or weights.parent / f"{weights.stem}.safetensors"  # with_suffix raises where the name is "."
    import_darknet(cfg, weights, names, path)
    typer.echo(f"written: {path}")


@app.command("write")
def write(
    source: Source,
    output: Annotated[Path, typer.Option(help="The files' path without suffix.")],
) -> None:
    """Write a trained YOLOv2 or v3 as .cfg, .weights and .names."""
    from boxwright.engine.darknet import export_darknet

    for path in export_darknet(source, output):
        typer.echo(f"written: {path}")
