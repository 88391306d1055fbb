"""`boxwright predict`, as a process of its own as well."""

import json
import subprocess
import sys

from PIL import Image
from typer.testing import CliRunner

from boxwright.cli.app import app
from boxwright.engine.checkpoint import load_weights, save_weights
from boxwright.recipes import dump_recipe, load_recipe


def test_pictures_and_json(run_folder, data, tmp_path):
    output = tmp_path / "out"
    arguments = ["predict", run_folder, f"{data}/images/val*.png", "--output", output, "--score", 0.001]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"pictures: 3, in {output}; objects: {output / 'predictions.json'}"
    content = json.loads((output / "predictions.json").read_text())
    assert content["classes"] == ["cell", "platelet"]
    for entry in content["images"]:
        assert entry["objects"]
        assert all(found["score"] >= 0.001 for found in entry["objects"])
        with Image.open(entry["picture"]) as picture:
            assert picture.width == 4 * entry["width"]


def test_of_an_animation_it_is_said_that_the_first_frame_was_looked_at(run_folder, tmp_path):
    frames = [Image.new("RGB", (80, 60), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    arguments = ["predict", run_folder, tmp_path / "a.gif", "--output", tmp_path / "out", "--score", 1]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.stdout.splitlines()[0].endswith("a.jpg: nothing found (in the first of 3 frames)")


def test_what_was_trained_in_half_precision_finds_objects_on_a_cpu(run_folder, tmp_path):
    weights, header = load_weights(run_folder / "checkpoints" / "last.safetensors")
    recipe = dump_recipe(load_recipe(run_folder / "recipe.yaml", ["train.precision=16-mixed"]))
    save_weights(tmp_path / "half.safetensors", weights, header | {"recipe": recipe})
    Image.new("RGB", (80, 60)).save(tmp_path / "a.png")
    arguments = ["predict", "half.safetensors", "a.png", "--output", "out.d", "--device", "cpu"]
    result = CliRunner().invoke(app, [str(tmp_path / one) if "." in one else one for one in arguments])
    assert result.exit_code == 0, result.output


def test_broken_image_is_named_and_the_rest_goes_on(run_folder, tmp_path):
    Image.new("RGB", (80, 60)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    command = [sys.executable, "-m", "boxwright", "predict", str(run_folder), "broken.png", "good.png"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "broken.png" in result.stderr.splitlines()[0]
    assert result.stderr.splitlines()[1] == "images that could not be read: 1 of 2, see above"
    assert (tmp_path / "predictions" / "good.jpg").is_file()
    assert "Traceback" not in result.stderr
