"""Reads darknet's `.cfg` text into sections that know their lines, so that every complaint can name one."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from boxwright.errors import RecipeError

__all__ = ["CfgSection", "parse_cfg", "read_cfg"]

T = TypeVar("T", int, float)

# no network comes near these; they keep every product of sizes within 64 bits before anything is allocated
LARGEST_FILE = 1 << 20
LARGEST_NUMBER = 1 << 20


@dataclass(frozen=True)
class CfgSection:
    """One section of a `.cfg`: `[name]` and its `key=value` lines.

    Attributes:
        name: what stands in the brackets.
        line: where it starts, counted from 1.
        options: value and line by key; of a repeated key the last, as in darknet.
        source: the file, for messages.
    """

    name: str
    line: int
    options: dict[str, tuple[str, int]] = field(default_factory=dict)
    source: str = "cfg"

    def error(self, problem: str, key: str | None = None) -> RecipeError:
        """Return an error that names file, section and line."""
        return RecipeError(f"{self.place(key)}: {problem}")

    def place(self, key: str | None = None) -> str:
        """Say where the section, or one of its keys, stands: file, line and name."""
        line = self.options[key][1] if key in self.options else self.line
        return f"{self.source}, line {line}, [{self.name}]"

    def only(self, known: Iterable[str]) -> None:
        """Refuse keys that are not known, since they may change what the network computes.

        Raises:
            RecipeError: there is another key.
        """
        known = sorted(known)
        for key in self.options:
            if key not in known:
                raise self.error(f"unknown key {key!r}; known here: {', '.join(known)}", key)

    def text(self, key: str, default: str) -> str:
        """Return a value as it stands."""
        return self.options.get(key, (default, 0))[0]

    def integer(self, key: str, default: int | None = None, least: int = 0, most: int = LARGEST_NUMBER) -> int:
        """Return a whole number within bounds.

        Raises:
            RecipeError: it is missing without a default, no whole number or out of bounds.
        """
        return self._one(key, default, int, least, most)

    def number(self, key: str, default: float, least: float = -1e12, most: float = 1e12) -> float:
        """Return a number within bounds; raises like `integer`."""
        return self._one(key, default, float, least, most)

    def integers(self, key: str, default: Sequence[int] | None = None) -> list[int]:
        """Return a list of whole numbers; raises like `integer`."""
        return self._list(key, default, int, -LARGEST_NUMBER, LARGEST_NUMBER)

    def numbers(self, key: str, default: Sequence[float] | None = None) -> list[float]:
        """Return a list of numbers; raises like `integer`."""
        return self._list(key, default, float, -1e12, 1e12)

    def _one(self, key: str, default: T | None, read: Callable[[str], T], least: T, most: T) -> T:
        values = self._list(key, None if default is None else [default], read, least, most)
        if len(values) != 1:
            raise self.error(f"{key} must be one number, found {self.text(key, '')!r}", key)
        return values[0]

    def _list(self, key: str, default: Sequence[T] | None, read: Callable[[str], T], least: T, most: T) -> list[T]:
        if key not in self.options:
            if default is None:
                raise self.error(f"{key} is missing")
            return list(default)
        text = self.options[key][0]
        try:
            # a comma at the end is common, and darknet does not mind it
            values = [read(part) for part in text.removesuffix(",").split(",")]
        except (ValueError, OverflowError):
            kind = "whole numbers" if read is int else "numbers"
            raise self.error(f"{key} must be {kind} separated by commas, found {_short(text)!r}", key) from None
        for value in values:
            if not least <= value <= most:  # as is NaN
                raise self.error(f"{key} must lie in {least}..{most}, found {_short(text)!r}", key)
        return values


def read_cfg(path: str | Path) -> list[CfgSection]:
    """Read a `.cfg` file.

    Raises:
        RecipeError: it cannot be read, is not text or far too large, or breaks the format.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise RecipeError(f"cannot read the darknet file {path}: {error.strerror}") from error
    if len(content) > LARGEST_FILE:
        raise RecipeError(f"{path} has more than {LARGEST_FILE} bytes; a darknet .cfg has some thousand. Is it one?")
    try:
        return parse_cfg(content.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not a text file: byte {error.start} is not UTF-8") from error


def parse_cfg(text: str, source: str = "cfg") -> list[CfgSection]:
    """Split the text of a `.cfg` into sections.

    Comments start with `#` or `;`; blanks count nowhere, as in darknet.

    Raises:
        RecipeError: a line is neither a section nor `key=value`, stands before the first section, or there is none;
            names the line.

    >>> parse_cfg("[net]\\nwidth = 416  # pixels")[0].integer("width")
    416
    """
    sections: list[CfgSection] = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = re.sub(r"\s", "", re.split("[#;]", raw, maxsplit=1)[0])
        if not line:
            continue
        if line.startswith("["):
            if not line.endswith("]") or len(line) < 3:
                raise RecipeError(f"{source}, line {number}: a section reads [name], found {_short(raw.strip())!r}")
            sections.append(CfgSection(line[1:-1], number, {}, source))
            continue
        key, _, value = line.partition("=")
        if not key or not value:
            raise RecipeError(f"{source}, line {number}: expected key=value, found {_short(raw.strip())!r}")
        if not sections:
            raise RecipeError(
                f"{source}, line {number}: {_short(key)!r} stands before the first section, which is [net]"
            )
        sections[-1].options[key] = (value, number)
    if not sections:
        raise RecipeError(f"{source} has no section; a darknet network begins with [net]")
    return sections


def _short(text: Any) -> str:
    return str(text) if len(str(text)) <= 60 else f"{str(text)[:57]}..."
