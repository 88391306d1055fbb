"""Draws boxes on pictures: crisp at any image size, in colours that everybody can tell apart, without clutter."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = ["class_color", "draw_boxes"]

Color = tuple[int, int, int]

# Okabe & Ito (2008), black left out, then Tol's "muted" scheme: both can be told apart with any colour vision.
_PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442"),
    *("#332288", "#44AA99", "#882255", "#DDCC77", "#117733", "#CC6677", "#AA4499", "#999933", "#88CCEE"),
)
_SMALLEST_SIDE = 1000  # a smaller picture is enlarged, or its labels would hide its objects
_LARGEST_OVERSAMPLED = 2000  # beyond, lines are wide enough to look smooth without drawing at twice the size
_LONGEST_SHAPE = 3  # long side over short side of the longest picture that is not a strip
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf", "arial.ttf")
_NOTHING = "nothing found"
_INK: Color = (28, 28, 30)
_PAPER: Color = (255, 255, 255)


class _Plate(NamedTuple):
    """A label's rectangle, x1, y1, x2, y2 in canvas pixels."""

    x1: float
    y1: float
    x2: float
    y2: float

    def overlaps(self, other: "_Plate") -> bool:
        return self.x1 < other.x2 and other.x1 < self.x2 and self.y1 < other.y2 and other.y1 < self.y2


def class_color(label: int) -> Color:
    """Return the colour of a class; colours repeat after sixteen classes."""
    code = _PALETTE[label % len(_PALETTE)]
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)


def draw_boxes(
    image: Image.Image, boxes: Tensor, labels: Tensor, class_names: Sequence[str], scores: Tensor | None = None
) -> Image.Image:
    """Draw boxes with label plates and a legend that counts the objects of each class.

    Pictures smaller than 1000 pixels are enlarged. Plates never cover each other: a box whose plate finds no room shows
    its score only, or its colour alone; the most confident boxes choose first.

    Args:
        image: the picture, any mode.
        boxes: (n, 4) x1, y1, x2, y2 in pixels of the picture.
        labels: (n,) class index from 0.
        class_names: name of every class.
        scores: (n,) in 0..1; None for ground truth.

    Returns:
        A new RGB picture, the legend below it.
    """
    zoom = max(1, min(4, -(-_SMALLEST_SIDE // max(image.size))))
    long_side = zoom * max(image.size)
    oversample = 2 if long_side <= _LARGEST_OVERSAMPLED else 1
    enlarged = image.convert("RGB").resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    canvas = enlarged.resize((enlarged.width * oversample, enlarged.height * oversample), Image.Resampling.NEAREST)

    # the pen scales with the picture, and with the narrow side of a strip, which it would fill otherwise
    unit = oversample * min(long_side, _LONGEST_SHAPE * zoom * min(image.size)) / 1000
    order = range(len(boxes)) if scores is None else scores.argsort(descending=True, stable=True).tolist()
    upper, lower = (boxes.to(torch.float64) * zoom * oversample).chunk(2, dim=1)
    smallest = 6 * unit  # an object of a few pixels, or of none, must still be seen
    corners = torch.cat([upper, torch.maximum(lower, upper + smallest)], dim=1).tolist()
    classes = labels.tolist()
    draw = ImageDraw.Draw(canvas)
    for index in reversed(order):
        _outline(draw, corners[index], class_color(classes[index]), unit)
    font = _font(max(10 * oversample, round(15 * unit)), all(class_names[label].isascii() for label in classes))
    plates: list[_Plate] = []
    for index in order:
        name = class_names[classes[index]]
        texts = [name] if scores is None else [f"{name} {scores[index]:.2f}", f"{scores[index]:.2f}"]
        _label(draw, canvas.size, corners[index], texts, class_color(classes[index]), unit, font, plates)
    return _with_legend(canvas.reduce(oversample), Counter(classes), class_names, unit / oversample)


def _outline(draw: ImageDraw.ImageDraw, box: Sequence[float], color: Color, unit: float) -> None:
    """Draw a rounded rectangle with a thin light rim, so that it shows on dark, bright and same-coloured ground."""
    width, rim = max(2, round(2.6 * unit)), max(1, round(0.8 * unit))
    x1, y1, x2, y2 = box
    radius = min(4 * unit, (x2 - x1) / 3, (y2 - y1) / 3)
    draw.rounded_rectangle(
        (x1 - rim, y1 - rim, x2 + rim, y2 + rim), radius + rim, outline=_PAPER, width=width + 2 * rim
    )
    draw.rounded_rectangle((x1, y1, x2, y2), radius, outline=color, width=width)


def _label(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Sequence[float],
    texts: Sequence[str],
    color: Color,
    unit: float,
    font: ImageFont.FreeTypeFont,
    plates: list[_Plate],
) -> None:
    """Write the first of `texts` that finds a free place at the box, and remember the place in `plates`."""
    ascent, descent = font.getmetrics()
    pad = 4 * unit
    for text in texts:
        width, height = font.getlength(text) + 2 * pad, ascent + descent + pad
        for plate in _places(box, width, height, unit):
            inside = plate.x1 >= 0 and plate.y1 >= 0 and plate.x2 <= size[0] and plate.y2 <= size[1]
            if inside and not any(plate.overlaps(other) for other in plates):
                plates.append(plate)
                draw.rounded_rectangle(plate, 3 * unit, fill=color)
                draw.text((plate.x1 + pad, plate.y1 + pad / 2 + ascent), text, _ink_on(color), font, anchor="ls")
                return


def _places(box: Sequence[float], width: float, height: float, unit: float) -> list[_Plate]:
    """Places for a plate, best first: above the box, below it, then inside where it does not hide the object."""
    x1, y1, x2, y2 = box
    gap = unit
    rows = [y1 - height - gap, y2 + gap]
    if width < 0.75 * (x2 - x1) and height < 0.3 * (y2 - y1):
        rows += [y1 + 3 * gap, y2 - height - 3 * gap]
    columns = [x1 - gap, x2 - width + gap]
    return [_Plate(x, y, x + width, y + height) for y in rows for x in columns]


def _with_legend(picture: Image.Image, counts: Counter[int], class_names: Sequence[str], unit: float) -> Image.Image:
    """Add a strip below the picture: a swatch, the name and the number of objects of each class that was drawn.

    It keeps a size that can be read; the page of a narrow picture is wider than the picture.
    """
    unit = max(unit, 0.75)
    font = _font(max(11, round(15 * unit)), all(class_names[label].isascii() for label in counts))
    line, pad, swatch = round(26 * unit), round(12 * unit), round(13 * unit)
    entries = [(class_color(label), f"{class_names[label]}: {count}") for label, count in sorted(counts.items())]
    rows: list[list[tuple[int, Color, str]]] = [[]]
    x, widest = pad, 0 if entries else 2 * pad + round(font.getlength(_NOTHING))
    for color, text in entries:
        width = swatch + pad // 2 + round(font.getlength(text)) + 2 * pad
        if rows[-1] and x + width > picture.width:
            rows.append([])
            x = pad
        rows[-1].append((x, color, text))
        x += width
        widest = max(widest, x - pad)
    page = Image.new("RGB", (max(picture.width, widest), picture.height + line * len(rows) + pad), _PAPER)
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    if not entries:
        draw.text((pad, picture.height + (line + pad) // 2), _NOTHING, (120, 120, 125), font, anchor="lm")
    for number, row in enumerate(rows):
        middle = picture.height + pad // 2 + line * number + line // 2
        for x, color, text in row:
            draw.rounded_rectangle((x, middle - swatch // 2, x + swatch, middle + swatch // 2), 3 * unit, fill=color)
            draw.text((x + swatch + pad // 2, middle), text, _INK, font, anchor="lm")
    return page


def _ink_on(color: Color) -> Color:
    """Black or white, whichever can be read on the colour (relative luminance of WCAG 2)."""
    shares = [channel / 255 for channel in color]
    linear = [share / 12.92 if share <= 0.04 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _INK if luminance > 0.3 else _PAPER


@lru_cache(maxsize=32)
def _font(size: int, plain: bool) -> ImageFont.FreeTypeFont:
    """Return Pillow's built-in typeface, which knows ASCII only, or for other names one that the machine has."""
    if not plain:
        for file in _WIDE_FONTS:
            with suppress(OSError):
                return ImageFont.truetype(file, size)
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels bring FreeType
    return font
