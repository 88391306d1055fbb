"""Counts in sentences."""

__all__ = ["counted"]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an s, or es after one, unless the number is one.

    Example:
        >>> counted(1, "image"), counted(0, "image"), counted(12345, "class")
        ('1 image', '0 images', '12,345 classes')
    """
    plural = noun + ("es" if noun.endswith(("s", "x")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"
