"""Which parts can be swapped into which dense system; writes docs/swap.md where BOXWRIGHT_WRITE_DOCS is set."""

import os
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from boxwright.recipes import load_recipe
from swap import PARTS, SYSTEMS, check_step, swapped, types, verdict

PAGE = Path(__file__).parents[2] / "docs" / "swap.md"
INTRODUCTION = """\
# Swapping parts

Every part of a criterion is changed by one word: `--set criterion.box.type=ciou`. It brings the defaults of its own
class; a line says which, and what went ([Train](train.md#recipes) has the rule). The tables show which assigners,
classification losses and box losses go into which dense system; a test writes them from one training step of each on a
synthetic scene, in which the loss must be finite and must move classes and boxes. What cannot work is refused before
anything is built, for the numbered reason. `seesaw` and `equalized-v2` need
`--set criterion.classification.num_classes=C` as well. Systems of two stages have these parts for each stage
(`criterion.rpn.assigner`, `criterion.roi.assigner`); YOLOv2 and v3 have none, as darknet's rule matches and charges in
one, and are refused with that reason.
"""


@cache
def refusals():
    """Map (system, kind, part) to the reason it is refused for, "" where it works."""
    return {
        (system, kind, name): verdict(system, **{kind: name})
        for system, kind in product(SYSTEMS, PARTS)
        for name in types(kind)
    }


def page():
    """Return the page of tables."""
    text, reasons = INTRODUCTION, []
    for kind in PARTS:
        text += f"\n## {kind.capitalize()}\n\n| `criterion.{kind}.type` | {' | '.join(SYSTEMS)} |\n"
        text += "|---" * (len(SYSTEMS) + 1) + "|\n"
        for name in types(kind):
            cells = []
            for system in SYSTEMS:
                reason = refusals()[system, kind, name].partition(": ")[2].replace(name, "it", 1)
                reason = reason.replace(system.removesuffix("-tiny").replace("retinanet", "retina"), "system's")
                if reason and reason not in reasons:
                    reasons.append(reason)
                cells.append(f"no ({reasons.index(reason) + 1})" if reason else "yes")
            text += f"| {name} | {' | '.join(cells)} |\n"
    return text + "\n## Reasons\n\n" + "".join(f"{n}. {reason}.\n" for n, reason in enumerate(reasons, 1))


def test_the_page_says_what_works():
    if os.environ.get("BOXWRIGHT_WRITE_DOCS"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), "run this test with BOXWRIGHT_WRITE_DOCS=1 to write docs/swap.md"


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_published_parts_are_among_those_that_work(system):
    criterion = load_recipe(system).criterion
    for kind in PARTS:
        assert refusals()[system, kind, getattr(criterion, kind).type] == ""


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_parts_that_work_alone_work_together(system):
    own = load_recipe(system).criterion
    choices = {
        kind: [
            getattr(swapped(system, **{kind: name}).criterion, kind)
            for name in types(kind)
            # aLRP ranks boxes by losses of decoded boxes, which is between two parts
            if not refusals()[system, kind, name] and name != "alrp"
        ]
        for kind in PARTS
    }
    recipe = load_recipe(system)
    pairs = [pair for pair in product(PARTS, PARTS) if pair[0] < pair[1]]
    for first, second in pairs:
        for a, b in product(choices[first], choices[second]):
            criterion = own.model_copy(update={first: a, second: b})
            check_step(recipe.model_copy(update={"criterion": criterion}), (a.type, b.type))
