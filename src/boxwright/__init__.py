"""boxwright trains object detectors and treats the criterion (label assignment and losses) as the product."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from boxwright.engine.load import load

__version__ = "0.1.0"

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    """Import the trainer only when somebody asks for it, so that the criteria import with torch alone."""
    if name == "load":
        from boxwright.engine.load import load

        return load
    raise AttributeError(f"module 'boxwright' has no attribute {name!r}")
