"""Recipes: named, validated configurations, one file per published system."""

from boxwright.extras import needs_extra

with needs_extra("train"):
    from boxwright.recipes.build import build_criterion, build_detector
    from boxwright.recipes.load import dump_recipe, load_recipe, parse_recipe, recipe_names
    from boxwright.recipes.schema import Recipe

__all__ = [
    "Recipe",
    "build_criterion",
    "build_detector",
    "dump_recipe",
    "load_recipe",
    "parse_recipe",
    "recipe_names",
]
