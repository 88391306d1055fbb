"""The `boxwright` command and what it does with errors."""

import errno
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import boxwright
from boxwright.cli import compare, darknet, data, demo, evaluate, export, inspect, predict, recipes, train
from boxwright.errors import BoxwrightError
from boxwright.extras import needs_extra

__all__ = ["app"]


# a path that is too long, of the wrong kind or not allowed, and a full disk: the user can fix these
_OF_THE_MACHINE = {
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
}


class _Group(TyperGroup):
    """Prints errors that the user can fix as one sentence, without a traceback, and exits with 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command; without `standalone_mode` errors and results are the caller's."""
        if os.environ.get("NO_COLOR"):
            kwargs["color"] = False  # of the context, which Typer asks and this variable is unknown to
        standalone = kwargs.get("standalone_mode", True)
        kwargs["standalone_mode"] = False
        if not standalone:
            return super().main(*args, **kwargs)
        try:
            with needs_extra("train"):
                result = super().main(*args, **kwargs)
        except BoxwrightError as error:
            _fail(str(error))
        except typer.Abort:
            sys.exit(130)
        except OSError as error:
            if error.errno not in _OF_THE_MACHINE:
                raise
            _fail(f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}")
        except Exception as error:
            # usage errors of Typer, whose base class is not public in all its versions
            if not hasattr(error, "format_message"):
                raise
            context, sentence = getattr(error, "ctx", None), error.format_message().strip().replace("Value error, ", "")
            if not sentence:  # a group without its command has shown its help
                sys.exit(2)
            _fail(sentence + (f" (see {context.command_path} --help)" if context is not None else ""))
        sys.exit(result if isinstance(result, int) else 0)


def _fail(sentence: str) -> None:
    colour = False if os.environ.get("NO_COLOR") else None
    typer.secho("boxwright: ", fg=typer.colors.RED, bold=True, nl=False, err=True, color=colour)
    typer.echo(sentence, err=True)
    sys.exit(2)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, evaluate and use object detectors, with criteria that can be seen and swapped.",
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("eval")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("inspect")(inspect.inspect)
app.command("compare")(compare.compare)
app.add_typer(data.app, name="data")
app.add_typer(darknet.app, name="darknet")
app.add_typer(recipes.app, name="recipes")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"boxwright {boxwright.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None: ...
