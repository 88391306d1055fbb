"""Draws AP per class against the class's objects: `python docs/class_pictures.py` writes docs/pictures/classes-*.svg.

The numbers are those of `benchmarks/recipes.py --name aquarium`.
"""

import json
import math
from pathlib import Path

from ranking_pictures import FOLDER, GREY, curve, line, svg, text

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "recipes_aquarium.json"
COLORS = {
    "retinanet-tiny": "#111827",
    "retinanet-cb-tiny": "#2563eb",
    "ap-loss-tiny": "#dc2626",
    "rank-sort-tiny": "#d97706",
}
LEFT, RIGHT, TOP, BOTTOM = 60, 480, 20, 180


def classes() -> str:
    """One curve per recipe over the classes, the rarest left, on a logarithmic axis of objects."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    objects = dict(sorted(results["objects"].items(), key=lambda item: item[1]))
    reached = {recipe: results["trainings"][recipe]["0"]["classes"] for recipe in COLORS}
    low, high = math.log(min(objects.values())), math.log(max(objects.values()))
    top = math.ceil(10 * max(ap for run in reached.values() for ap in run.values())) / 10

    def across(count: float) -> float:
        return LEFT + (math.log(count) - low) / (high - low) * (RIGHT - LEFT)

    def up(ap: float) -> float:
        return BOTTOM - ap / top * (BOTTOM - TOP)

    parts = [text(10, TOP - 6, "AP")]
    for step in range(round(10 * top) + 1):
        parts += [line(LEFT, up(step / 10), RIGHT, up(step / 10), GREY, 0.5), text(30, up(step / 10) + 4, f".{step}")]
    for place, (name, count) in enumerate(objects.items()):
        words = f'text-anchor="middle" font-size="10">{name} {count}'
        parts.append(f'<text x="{across(count):.1f}" y="{BOTTOM + 14 + 12 * (place % 2)}" {words}</text>')
    for place, (recipe, color) in enumerate(COLORS.items()):
        parts.append(curve([(across(objects[name]), up(reached[recipe][name])) for name in objects], color))
        parts.append(text(RIGHT + 15, TOP + 20 + 20 * place, recipe, color))
    return svg(parts)


if __name__ == "__main__":
    (FOLDER / "classes-aquarium.svg").write_text(classes(), encoding="utf-8")
