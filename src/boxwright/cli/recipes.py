"""`boxwright recipes`: what can be trained by name."""

import sys
from functools import partial
from typing import Annotated

import typer

from boxwright.cli.options import Overrides

app = typer.Typer(invoke_without_command=True, help="List the recipes, or show one.")


@app.callback()
def list_recipes(context: typer.Context) -> None:
    """List the recipes, or show one."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    from boxwright.recipes import load_recipe, recipe_names

    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", style="bold cyan", no_wrap=True)
    table.add_column("what it is")
    for name in recipe_names():
        table.add_row(name, load_recipe(name).description)
    Console(highlight=False).print(table)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A recipe's name, or a YAML file.")],
    overrides: Overrides = None,
) -> None:
    """Print a recipe as YAML with every default filled in; write it to a file and edit it to make your own."""
    from boxwright.recipes import dump_recipe, load_recipe

    text = dump_recipe(load_recipe(name, overrides or (), say=partial(typer.echo, err=True)))
    if not sys.stdout.isatty():
        typer.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.syntax import Syntax

    Console().print(Syntax(text, "yaml", background_color="default"))
