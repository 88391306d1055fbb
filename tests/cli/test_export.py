"""`boxwright export`: where the file goes, what it is checked on, and what is said."""

import pytest
from PIL import Image
from typer.testing import CliRunner

from boxwright.cli.app import app

pytest.importorskip("onnxruntime")


def run(*arguments):
    """Return exit code and everything printed."""
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return result.exit_code, result.output


def test_the_file_lies_beside_the_weights_and_is_checked_on_the_runs_validation(run_folder):
    path = run_folder / "checkpoints" / "last.onnx"
    code, printed = run(run_folder)
    assert code == 0, printed
    assert printed.splitlines()[0] == f"written: {path}"
    assert printed.splitlines()[1].startswith("onnxruntime against PyTorch on 3 images, largest difference: boxes ")
    assert path.is_file()
    path.unlink()


def test_weights_alone_are_checked_on_images_that_are_given(run_folder, tmp_path):
    weights = run_folder / "checkpoints" / "last.safetensors"
    output = tmp_path / "new" / "a b.onnx"
    code, printed = run(weights, "--output", output)
    assert code == 2
    assert f"say which images to check the export of {weights} on: --images FOLDER" in printed
    code, printed = run(weights, "--output", output, "--images", tmp_path / "nothere")
    assert code == 2
    assert "there is no image, folder or pattern" in printed
    assert not output.exists()
    for number in range(9):
        Image.new("RGB", (70, 30 + number)).save(tmp_path / f"{number}.png")
    options = ["--images", tmp_path, "--batch", 0, "--nms"]
    code, printed = run(weights, "--output", output, *options)
    assert code == 0, printed
    assert "against PyTorch on 8 images" in printed
    assert output.is_file()
