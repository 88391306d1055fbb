"""`boxwright compare`: which criterion is better on this data."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from boxwright.cli.options import (
    Classes,
    DataFormat,
    Images,
    OneBased,
    Overrides,
    SkipBad,
    Splits,
    comma_list,
    number_table,
    split_map,
)
from boxwright.errors import BoxwrightError

__all__ = ["compare"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def compare(
    data: Annotated[Path, typer.Option(help="Folder or annotation file: COCO, Pascal VOC, YOLO or CSV.")],
    recipes: Annotated[
        str, typer.Option(metavar="NAME,…", help="Names or YAML files; the first gives all that is held fixed.")
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each recipe.")] = 3,
    overrides: Overrides = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="90s, 30m, 8h: fewer epochs, the same for all, so that it fits."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the runs and of the report.")] = Path("comparison"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once.")] = 1,
    engine: Annotated[
        Literal["processes", "ray", "slurm"], typer.Option(help="Where: on this machine, or over a cluster.")
    ] = "processes",
    engine_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="For ray.remote or submitit; repeatable.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="How many images to show.")] = 12,
    skip_bad: SkipBad = False,
    format: DataFormat = None,
    classes: Classes = None,
    split: Splits = None,
    images: Images = None,
    one_based: OneBased = None,
) -> None:
    """Train recipes with several seeds and say which is better, unless that is noise: HTML, Markdown and JSON."""
    from boxwright.study import compare

    report = compare(
        data,
        comma_list(recipes) or (),
        seeds=seeds,
        overrides=overrides or (),
        budget=None if budget is None else _seconds(budget),
        output=output,
        jobs=jobs,
        engine=engine,
        engine_options=_options(engine_option),
        images=show,
        skip_bad=skip_bad,
        format=format,
        classes=comma_list(classes),
        splits=split_map(split),
        image_folder=images,
        one_based=one_based,
        progress=typer.echo,
    )
    _print(report)
    typer.echo(f"page: {output / 'compare.html'}, also compare.md and compare.json")


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None:
        raise BoxwrightError(f"--budget {text!r} must be a number and a unit: 90s, 30m, 8h or 2d")
    return float(found[1]) * _UNITS[found[2]]


def _options(arguments: list[str] | None) -> dict[str, Any]:
    import yaml

    options = {}
    for argument in arguments or ():
        key, separator, value = argument.partition("=")
        if not separator:
            raise BoxwrightError(f"--engine-option {argument!r} must read KEY=VALUE, for example slurm_partition=gpu")
        options[key] = yaml.safe_load(value)
    return options


def _print(report: dict[str, Any]) -> None:
    """Print the verdict and the main numbers."""
    from rich.console import Console

    from boxwright.study.comparison.wording import mean_and_spread

    table = number_table("recipe", "AP", "AP50", "AP75", "seeds", box=None, pad_edge=False)
    for recipe in report["recipes"]:
        cells = [mean_and_spread(recipe["metrics"][name]) for name in ("AP", "AP50", "AP75")]
        table.add_row(recipe["name"], *cells, str(len(recipe["runs"])))
    Console(highlight=False).print(table)
    verdict = report["verdict"]
    for line in (f"{verdict['headline']}. {verdict['text']}".strip(), *verdict["settle"]):
        typer.echo(line)
