"""Images with what each recipe found in them, drawn without a script."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["case_style", "cases"]

_LAYERS = (
    ("object", "annotated", "#8a8f98", ""),
    ("right", "right", "#34d399", ""),
    ("wrong", "wrong", "#ff5a4f", ""),
    ("missed", "missed", "#ffd60a", " dashed"),
)


def case_style(images: Sequence[Mapping[str, Any]]) -> str:
    """Write the pictures, each once, as variables that every recipe's tile uses."""
    pictures = "".join(f"--image-{i}: url({image['picture']});" for i, image in enumerate(images) if "picture" in image)
    return f":root {{ {pictures} }}" if pictures else ""


def cases(report: Mapping[str, Any]) -> str:
    """Write the images of a report, one after another; the page's script shows them one at a time."""
    classes = [kind["name"] for kind in report["data"]["classes"]]
    several = len(report["recipes"]) > 1
    choices = "".join(
        f'<label><input type="checkbox" data-layer="{layer}" checked>'
        f'<span class="key{style}" style="--colour: {colour}"></span>{title}</label>'
        for layer, title, colour, style in _LAYERS
    )
    text = (
        "Detections from the score of each run’s best F1 on; right: matched at IoU 0.5. Mistakes are wrong detections "
        f"and missed objects{', averaged over seeds; drawn is the first seed' if several else ''}."
    )
    keys = "<kbd>←</kbd> <kbd>→</kbd> change the image."
    articles = "".join(_case(number, image, classes, several) for number, image in enumerate(report["images"]))
    return (
        f'<p class="soft">{text} <span class="needs-script">{keys}</span></p>'
        f'<fieldset class="layers needs-script"><legend class="soft">Boxes</legend>{choices}</fieldset>'
        f'<div class="thumbs needs-script" role="group" aria-label="Images"></div><div class="cases">{articles}</div>'
    )


def _case(number: int, image: Mapping[str, Any], classes: Sequence[str], several: bool) -> str:
    tiles = "".join(_tile(index, number, image, found, classes) for index, found in enumerate(image["recipes"]))
    spread = f"{image['spread']:.3g} mistakes between the best and the worst" if several else ""
    problem = f'<p class="soft">{escape(image["error"])}</p>' if "error" in image else ""
    return (
        f'<article class="case" data-image="{number}" style="--ratio: {image["width"]} / {image["height"]}">'
        f'<h3>{escape(image["name"])} <span class="soft">{spread}</span></h3>{problem}'
        f'<div class="tiles">{tiles}</div></article>'
    )


def _tile(index: int, number: int, image: Mapping[str, Any], found: Mapping[str, Any], classes: Sequence[str]) -> str:
    boxes = []
    for position, entry in enumerate(image["objects"]):
        kind = "crowd" if entry["crowd"] else "missed" if position in found["missed"] else "object"
        boxes.append(_box(kind, entry["box"], f"{classes[entry['class']]}, {_OBJECTS[kind]}"))
    for entry in found["detections"]:
        kind = "right" if entry["right"] else "wrong"
        boxes.append(_box(kind, entry["box"], f"{classes[entry['class']]} {entry['score']:.2f}, {kind}"))
    mistakes = f"{found['mistakes']:.3g} {'mistake' if found['mistakes'] == 1 else 'mistakes'}"
    label = f"{found['name']}: {mistakes} in {image['name']}"
    frame = f'viewBox="0 0 {image["width"]} {image["height"]}" role="img" aria-label="{escape(label)}"'
    return (
        f'<figure data-recipe="{index}"><figcaption><span class="key c{index}"></span><b>{escape(found["name"])}</b> '
        f'{mistakes}</figcaption><div class="tile" style="background-image: var(--image-{number})">'
        f"<svg {frame}>{''.join(boxes)}</svg></div></figure>"
    )


_OBJECTS = {"crowd": "a region to ignore", "missed": "missed", "object": "annotated"}


def _box(kind: str, box: Sequence[float], title: str) -> str:
    x1, y1, x2, y2 = box
    return (
        f'<rect class="{kind}" x="{x1:g}" y="{y1:g}" width="{max(x2 - x1, 0):g}" height="{max(y2 - y1, 0):g}">'
        f"<title>{escape(title)}</title></rect>"
    )
