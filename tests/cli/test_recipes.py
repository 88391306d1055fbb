"""`boxwright recipes`."""

import yaml
from typer.testing import CliRunner

from boxwright.cli.app import app
from boxwright.recipes import load_recipe, recipe_names


def test_list_names_every_recipe():
    result = CliRunner().invoke(app, ["recipes"])
    assert result.exit_code == 0
    rows = result.stdout.splitlines()[1:]
    assert recipe_names() == [row.split()[0] for row in rows if row[:1].strip()]


def test_show_prints_what_loads_again(tmp_path):
    result = CliRunner().invoke(app, ["recipes", "show", "retinanet-tiny", "--set", "data.size=256"])
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout)["data"]["size"] == 256
    file = tmp_path / "mine.yaml"
    file.write_text(result.stdout)
    assert load_recipe(file) == load_recipe("retinanet-tiny", ["data.size=256"])
