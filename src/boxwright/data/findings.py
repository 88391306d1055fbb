"""What can be wrong with a data set: every kind of finding, how severe it is and what to do about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from boxwright.errors import DataError

Severity = Literal["error", "warning", "info"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


class Kind(NamedTuple):
    """How severe a kind of finding is, and what one does about it."""

    severity: Severity
    advice: str


KINDS: dict[str, Kind] = {
    "annotation-file": Kind("error", "fix or remove the file, or export the data set again"),
    "annotation": Kind("error", "fix or remove the annotation"),
    "file-name": Kind("error", "name images in UTF-8, relative to the data folder, without '..'"),
    "unknown-image": Kind("error", "add the image to the image list, or remove its annotations"),
    "unknown-class": Kind("error", "add the class to the class list (--classes), or fix the annotation"),
    "image-missing": Kind("error", "put the image there, name its folder with --images, or remove the entry"),
    "image-unreadable": Kind("error", "replace the image, or remove it and its annotations"),
    "image-size": Kind("error", "write the size of the image file into its annotation; the boxes may need scaling too"),
    "box-number": Kind("error", "write finite numbers"),
    "box-outside": Kind("error", "fix the box; is it in pixels of this image, and in this format's order?"),
    "box-format": Kind("error", "convert the boxes to the order and unit that this format prescribes"),
    "box-empty": Kind("warning", "dropped when loaded; redraw or remove the box"),
    "box-clipped": Kind("warning", "clipped to the image when loaded; nothing to do if that is right"),
    "box-duplicate": Kind("warning", "remove one of the two boxes: they count as two objects"),
    "image-duplicate": Kind("warning", "keep one of the images"),
    "split-leak": Kind("warning", "keep the image in one split only: it makes the evaluation too good"),
    "image-rotated": Kind("warning", "turn the pixels and remove the EXIF tag, and check that the boxes fit"),
    "image-mode": Kind("warning", "convert to 8 bits per channel if the contrast matters"),
    "label-orphan": Kind("warning", "add the image, or remove the label file"),
    "class-empty": Kind("warning", "nothing can be learned for this class; remove it or label some objects"),
    "class-count": Kind("warning", "make them agree: a missing name moves every class behind it"),
    "category-name": Kind("warning", "rename one of the categories; until then they are told apart by their id"),
    "class-case": Kind("warning", "write the class in one way; until then these are different classes"),
    "category-gap": Kind("info", "nothing: ids are mapped to 0…C−1 in sorted order"),
    "box-ignored": Kind(
        "info", "little is learned of it; if it should be: --set criterion.assigner.ignore_threshold=null"
    ),
    "image-background": Kind("info", "nothing, if it shows no object: background images are legal"),
    "image-channels": Kind("info", "nothing: converted to RGB when loaded"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing: where it stands (`file`, `line` or `id`) and what it is.

    Example:
        >>> Finding("box-empty", "RBC [5, 5, 5, 5] has no area", "a.xml", line=12).text
        'a.xml, line 12: RBC [5, 5, 5, 5] has no area'
    """

    kind: str
    message: str
    file: str | Path
    line: int | None = None
    id: int | None = None

    @property
    def severity(self) -> Severity:
        """The severity of the kind: `error`, `warning` or `info`."""
        return KINDS[self.kind].severity

    @property
    def advice(self) -> str:
        """What to do about it."""
        return KINDS[self.kind].advice

    @property
    def place(self) -> str:
        """The file, with the line or annotation id where there is one."""
        line = f", line {self.line}" if self.line is not None else ""
        number = f", id {self.id}" if self.id is not None else ""
        return f"{self.file}{line}{number}"

    @property
    def text(self) -> str:
        """Place and message as one line."""
        return f"{self.place}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "file": str(self.file),
            "line": self.line,
            "id": self.id,
            "message": self.message,
            "advice": self.advice,
        }


class FindingError(DataError):
    """A finding that stops the reading: what `data check` lists and everything else raises."""

    def __init__(self, finding: Finding, more: str = "") -> None:
        super().__init__(f"{finding.text}; {finding.advice}{more}")
        self.finding = finding

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from `args`, which here is the text: loader workers send them by pickle.
        return type(self), (self.finding,)
