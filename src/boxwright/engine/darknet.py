"""Between darknet's files and boxwright's: a network that was trained there works here, and the other way round."""

from pathlib import Path

from boxwright.engine.checkpoint import save_weights
from boxwright.engine.load import load_with_recipe
from boxwright.errors import RunError
from boxwright.files import write_text
from boxwright.models.darknet import WeightsHeader, write_weights
from boxwright.recipes import build_detector, dump_recipe, load_recipe
from boxwright.recipes.grid import GridRecipe, cfg_text, with_detector

__all__ = ["export_darknet", "import_darknet"]


def import_darknet(cfg: str | Path, weights: str | Path, names: str | Path, output: str | Path) -> None:
    """Write darknet's files as one weight file that `load`, `eval`, `predict` and `export` take.

    Args:
        cfg: the network.
        weights: its weights.
        names: the class names, one per line.
        output: the `.safetensors` file to write.

    Raises:
        RecipeError: the network cannot be built, or has another number of classes.
        RunError: weights or names cannot be read or do not fit.
    """
    try:
        lines = Path(names).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read the class names in {names}: {error}") from error
    classes = [line.strip() for line in lines if line.strip()]
    recipe = load_recipe(cfg)
    assert isinstance(recipe, GridRecipe)  # as every .cfg gives
    detector = build_detector(with_detector(recipe, weights=str(weights)), classes)
    save_weights(
        Path(output), detector.state_dict(), {"recipe": dump_recipe(recipe), "classes": classes, "metrics": {}}
    )


def export_darknet(source: str | Path, stem: str | Path) -> list[Path]:
    """Write a trained detector as darknet's `.cfg`, `.weights` and `.names`; return these files.

    Args:
        source: a run folder or weight file of a darknet network.
        stem: the files' path without suffix.

    Raises:
        RunError: the detector cannot be loaded, or its network is none of darknet's.
    """
    detector, recipe = load_with_recipe(source)
    if not isinstance(recipe, GridRecipe):
        raise RunError(f"{source} is a {recipe.name}; only networks of darknet's layers can be written for darknet")
    seen = detector.state_dict().get("criterion.loss.seen")
    cfg, weights, names = (Path(f"{stem}.{suffix}") for suffix in ("cfg", "weights", "names"))
    write_text(cfg, cfg_text(recipe, len(detector.class_names)))
    write_weights(detector.backbone, weights, WeightsHeader(seen=0 if seen is None else int(seen)))  # type: ignore[arg-type]
    write_text(names, "".join(f"{name}\n" for name in detector.class_names))
    return [cfg, weights, names]
