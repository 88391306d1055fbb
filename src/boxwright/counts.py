"""Counts and lists in sentences."""

from collections.abc import Sequence

__all__ = ["counted", "listed"]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an s, or es after one, unless the number is one.

    Example:
        >>> counted(1, "image"), counted(0, "image"), counted(12345, "class")
        ('1 image', '0 images', '12,345 classes')
    """
    plural = noun + ("es" if noun.endswith(("s", "x")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def listed(names: Sequence[str], most: int = 20) -> str:
    """Return names in a row, of long lists the first ones and how many more there are.

    Example:
        >>> listed(["cat", "dog"]), listed(["cat", "dog", "cow", "pig"], most=2), listed([])
        ('cat, dog', 'cat, dog and 2 more', 'none')
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
