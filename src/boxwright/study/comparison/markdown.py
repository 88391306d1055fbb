"""The report of a comparison as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from boxwright.study.comparison.wording import commands, facts, mean_and_spread

__all__ = ["compare_markdown"]


def compare_markdown(report: Mapping[str, Any]) -> str:
    """Write a report of `summarise` as Markdown."""
    recipes, verdict = report["recipes"], report["verdict"]
    names = [recipe["name"] for recipe in recipes]
    parts = [f"# {verdict['headline']}", facts(report)]
    parts += [text for text in (verdict["text"], *verdict["settle"]) if text]
    metrics = report["metrics"]
    rows = [
        [recipe["name"], *(mean_and_spread(recipe["metrics"][name]) for name in metrics), *_cost(recipe)]
        for recipe in recipes
    ]
    parts += ["## Recipes", "Mean ± deviation over seeds."] if len(recipes) > 1 else ["## Numbers"]
    parts += [_table(["recipe", *metrics, "s/step", "MB"], rows)]
    if report["pairs"]:
        rows = [_pair(pair, names) for pair in sorted(report["pairs"], key=lambda pair: -abs(pair["difference"]))]
        heads = ["pair", "AP difference", "95 % interval", "from images alone", "p, corrected", "decided"]
        parts += ["## Pairs", _table(heads, rows)]
    classes = report["data"]["classes"]
    rows = [
        [
            entry["name"],
            f"{entry['train']:,}",
            f"{entry['val']:,}",
            *(mean_and_spread(r["classes"][entry["name"]]) for r in recipes),
        ]
        for entry in classes
    ]
    parts += ["## AP by class", _table(["class", "training objects", "validation objects", *names], rows)]
    rows = [
        [recipe["name"], *(mean_and_spread(recipe["errors"]["cost"][kind]) for kind in report["kinds"])]
        for recipe in recipes
    ]
    parts += ["## Errors", "AP50 that each kind of error costs (TIDE).", _table(["recipe", *report["kinds"]], rows)]
    if len(recipes) > 1 or report.get("failures"):
        parts += ["## Not the same", *_differences(report)]
    parts += ["## To repeat", f"```bash\n{commands(report)}\n```"]
    return "\n\n".join(parts) + "\n"


def _cost(recipe: Mapping[str, Any]) -> list[str]:
    memory = recipe["peak_memory"]["mean"]
    return [mean_and_spread(recipe["seconds_per_step"]), "–" if memory is None else f"{memory / 1e6:.0f}"]


def _pair(pair: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    interval = "–" if pair["interval"] is None else "{:+.3f} … {:+.3f}".format(*pair["interval"])
    chance = "–" if pair["p_corrected"] is None else f"{pair['p_corrected']:.3f}"
    ahead, behind = (pair["first"], pair["second"]) if pair["difference"] >= 0 else (pair["second"], pair["first"])
    return [
        f"{names[pair['first']]} − {names[pair['second']]}",
        f"{pair['difference']:+.3f}",
        interval,
        "{:+.3f} … {:+.3f}".format(*pair["image_interval"]),
        chance,
        f"{names[ahead]} over {names[behind]}" if pair["significant"] else "no",
    ]


def _differences(report: Mapping[str, Any]) -> Iterable[str]:
    held = ", ".join(f"`{section}`" for section in report.get("held", ()))
    if held:
        yield f"Held fixed: {held}, and the order and augmentation of images, by seed."
    for recipe in report["recipes"]:
        same, total = recipe.get("shared_parameters"), recipe.get("parameters")
        lines = [f"- {line}" for line in recipe.get("differs", ())]
        lines += [f"- taken from the first recipe: {line}" for line in recipe.get("held", ())]
        if total:
            lines += [f"- {same:,} of {total:,} parameters start as in the first recipe"]
        yield f"**{recipe['name']}**\n\n" + "\n".join(lines)
    for failure in report.get("failures", ()):
        yield f"Missing: {failure['name']}, seed {failure['seed']}: {failure['reason']}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruled = (heads, ["---", *["---:"] * (len(heads) - 1)], *rows)
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in ruled)
