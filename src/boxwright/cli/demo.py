"""`boxwright demo`."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option(help="A new folder for scenes, run and pictures.")] = Path("boxwright-demo"),
) -> None:
    """Draw synthetic scenes, train a small detector on them, and show what it finds; takes a few minutes on a CPU."""
    from boxwright.engine.demo import run_demo
    from boxwright.study import write_report

    result = run_demo(output)
    typer.echo(f"pictures:   {result.pictures}")
    typer.echo(f"report:     {write_report(result.run)}")
    typer.echo(f"run folder: {result.run.path}")
