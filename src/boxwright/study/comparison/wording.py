"""What a report says in words: who wins, what would settle it where nobody does, and what was measured on what."""

from collections.abc import Mapping, Sequence
from typing import Any

from boxwright.counts import counted

__all__ = ["commands", "facts", "mean_and_spread", "pair_words", "verdict_words"]


def verdict_words(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return `headline`, `text`, and `settle`: for every undecided pair with a leader, what would decide it."""
    words, absent = _among_the_finished(report), report["absent"]
    if not absent:
        return words
    told = f"{_list(absent)} {'has' if len(absent) == 1 else 'have'} no finished run and {_is(absent)} left out."
    if len(report["recipes"]) == 1:  # its AP is not a verdict
        return {"headline": "No winner can be named", "text": f"{told} {words['headline']}.", "settle": []}
    return {**words, "text": f"{words['text']} {told}"}


def _among_the_finished(report: Mapping[str, Any]) -> dict[str, Any]:
    recipes, pairs = report["recipes"], report["pairs"]
    names = [recipe["name"] for recipe in recipes]
    means = [recipe["metrics"]["AP"]["mean"] for recipe in recipes]
    best = max(range(len(names)), key=lambda index: means[index])
    if len(names) == 1:
        return {"headline": f"{names[0]}: AP {means[0]:.3f}", "text": "", "settle": []}
    if means[best] == 0:
        text = "No recipe has found anything: every AP is 0. Give more epochs, --set schedule.epochs=N, or see what "
        text += "boxwright inspect says about the data."
        return {"headline": "No winner can be named", "text": text, "settle": []}
    seeds = min(len(recipe["runs"]) for recipe in recipes)
    if report["winner"] is not None:
        second = max(mean for index, mean in enumerate(means) if index != best)
        return {
            "headline": f"{names[best]} wins",
            "text": f"Its AP of {means[best]:.3f} is {means[best] - second:.3f} above the next, and it is ahead of "
            "each other recipe by more than seeds and images can explain.",
            "settle": [],
        }
    if seeds < 2:
        text = "One seed says nothing about how much another seed would change. Give at least --seeds 3."
        return {"headline": "No winner can be named", "text": text, "settle": []}
    others = [name for index, name in enumerate(names) if index in report["leaders"] and index != best]
    rest = [name for index, name in enumerate(names) if index not in report["leaders"]]
    text = f"{names[best]} has the highest AP, {means[best]:.3f}, but {_list(others)} {_lie(others)} within the noise."
    if rest:
        text += f" {_list(rest)} {_is(rest)} worse by more than the noise."
    undecided = [pair for pair in pairs if best in (pair["first"], pair["second"]) and not pair["significant"]]
    return {"headline": "No winner", "text": text, "settle": [pair_words(pair, names) for pair in undecided]}


def pair_words(pair: Mapping[str, Any], names: Sequence[str]) -> str:
    """Say what would settle an undecided pair."""
    who = f"{names[pair['first']]} and {names[pair['second']]} (difference {abs(pair['difference']):.3f})"
    ways = []
    if pair["seeds_needed"] is not None:
        ways.append(counted(pair["seeds_needed"], "seed"))
    if pair["images_needed"] is not None:
        ways.append(counted(pair["images_needed"], "validation image"))
    if ways:
        return f"{who}: a difference of this size would be settled by {' or '.join(ways)}."
    return f"{who}: so small that neither 100 seeds nor a thousand times the images would settle it alone."


def facts(report: Mapping[str, Any]) -> str:
    """Say what the recipes of a report were measured on, and how often."""
    data, recipes = report["data"], report["recipes"]
    seeds = sorted({len(recipe["runs"]) for recipe in recipes})
    epochs = recipes[0].get("epochs")
    trained = f", after {counted(epochs, 'epoch')}" if epochs else ""
    return (
        f"{data['describe'].removeprefix('found: ')}. Measured on {counted(data['images'], 'validation image')} with "
        f"{counted(data['objects'], 'object')}{trained}; {' or '.join(map(str, seeds))} "
        f"{'seed' if seeds == [1] else 'seeds'} of each recipe. Of every run, its best checkpoint."
    )


def commands(report: Mapping[str, Any]) -> str:
    """Return the commands that repeat a report and its runs, one a line."""
    whole = [report["command"]] if "command" in report else []
    return "\n".join([*whole, *(run["command"] for recipe in report["recipes"] for run in recipe["runs"])])


def mean_and_spread(values: Mapping[str, Any]) -> str:
    """Write mean ± deviation over the seeds."""
    if values["mean"] is None:
        return "–"
    deviation = "" if values["deviation"] is None else f" ± {values['deviation']:.3f}"
    return f"{values['mean']:.3f}{deviation}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _lie(names: Sequence[str]) -> str:
    return "lies" if len(names) == 1 else "lie"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
