"""Between darknet's files and boxwright's: a network that was trained there works here, and the other way round."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from boxwright.engine.checkpoint import read_header, save_weights
from boxwright.engine.load import find_weights, load_with_recipe
from boxwright.errors import RecipeError, RunError
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
        RecipeError: the network cannot be built, is none of darknet's, or has another number of classes.
        RunError: weights or names cannot be read or do not fit, or the output would take the place of one of the files.
    """
    output = Path(output)
    if output.exists() and any(Path(file).exists() and output.samefile(file) for file in (cfg, weights, names)):
        raise RunError(f"{output} is one of the files to read: choose another --output")
    try:
        lines = Path(names).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot read the class names in {names}: {error}") from error
    classes = [line.strip() for line in lines if line.strip()]
    if not classes:
        raise RunError(f"{names} holds no class name; it should have one per line")
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise RunError(f"{names} lists {twice[0]!r} twice; give every class a name of its own")
    recipe = load_recipe(cfg)
    if not isinstance(recipe, GridRecipe):
        raise RecipeError(f"{cfg} is a {recipe.name}, not a network of darknet's layers: give a .cfg file")
    detector = build_detector(with_detector(recipe, weights=str(weights)), classes)
    with Path(weights).open("rb") as file:
        version = WeightsHeader.read(file, Path(weights))
    header = {
        "recipe": dump_recipe(recipe),
        "classes": classes,
        "metrics": {},
        "darknet": [version.major, version.minor, version.revision],
    }
    save_weights(output, detector.state_dict(), header)


def export_darknet(source: str | Path, stem: str | Path) -> list[Path]:
    """Write a trained detector as darknet's `.cfg`, `.weights` and `.names`; return these files.

    What `import_darknet` has read comes back bit for bit.

    Args:
        source: a run folder or weight file of a darknet network.
        stem: the files' path without suffix.

    Raises:
        RunError: the detector cannot be loaded, or its network is not one of darknet's.
    """
    detector, recipe = load_with_recipe(source)
    if not isinstance(recipe, GridRecipe):
        raise RunError(f"{source} is a {recipe.name}; only networks of darknet's layers can be written for darknet")
    seen: Tensor = detector.criterion.seen  # type: ignore[assignment]
    version = read_header(find_weights(source)).get("darknet", ())
    cfg, weights, names = (Path(f"{stem}.{suffix}") for suffix in ("cfg", "weights", "names"))
    write_text(cfg, cfg_text(recipe, len(detector.class_names)))
    write_weights(detector.backbone, weights, replace(WeightsHeader(*version), seen=int(seen)))  # type: ignore[arg-type]
    write_text(names, "".join(f"{name}\n" for name in detector.class_names))
    return [cfg, weights, names]
