"""`boxwright predict`, as a process of its own as well."""

import json
import subprocess
import sys

from PIL import Image
from typer.testing import CliRunner

from boxwright.cli.app import app


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
