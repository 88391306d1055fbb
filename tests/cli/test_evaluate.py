"""`boxwright eval`."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from boxwright.cli.app import app
from boxwright.engine.export import check_images
from boxwright.errors import RunError


def run(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def test_run_is_evaluated_on_its_own_data(run_folder):
    result = run(run_folder)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("found: COCO, 6 images, 2 classes")
    assert "measured on val: 3 images" in lines
    assert sum(" Average " in line for line in lines) == 12
    assert next(line for line in lines if "area= large" in line).endswith("n/a")
    assert next(line.split() for line in lines if line.startswith(" cell"))[:2] == ["cell", "2"]


def test_json_and_predictions_carry_source_ids(run_folder, data, tmp_path):
    weights = run_folder / "checkpoints" / "last.safetensors"
    file = tmp_path / "out" / "predictions.json"
    result = run(weights, "--data", data, "--split", "train", "--json", "--predictions", file)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["images"] == 3
    assert content["stats"]["AP_large"] is None
    assert [entry["category_id"] for entry in content["per_class"]] == [5, 7]
    predictions = json.loads(file.read_text())
    assert {entry["image_id"] for entry in predictions} == {10, 11, 12}
    assert {entry["category_id"] for entry in predictions} <= {5, 7}
    assert all(0 <= entry["bbox"][0] <= 90 and entry["bbox"][3] <= 60 for entry in predictions)


def test_a_split_given_by_its_path_is_the_one_that_is_evaluated(run_folder, data, tmp_path):
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    content["images"] = content["images"][:1]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]]
    file = tmp_path / "other.json"
    file.write_text(json.dumps(content))
    result = run(run_folder, "--split", f"val={file}", "--images", data / "images", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["images"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split", "tst"], "no split 'tst'"),
        (["--device", "abacus"], "--device abacus cannot be used"),
    ],
)
def test_what_does_not_fit_is_named(run_folder, arguments, words):
    result = run(run_folder, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_class_unknown_to_the_detector_is_named(run_folder, data, tmp_path):
    text = (data / "annotations" / "instances_val.json").read_text().replace('"platelet"', '"worm"')
    (tmp_path / "val.json").write_text(text)
    result = run(run_folder, "--data", tmp_path / "val.json", "--images", data / "images")
    assert result.exit_code == 2
    assert "classes that the detector was not trained on: worm; it knows cell, platelet" in result.stderr


def test_classes_are_matched_by_name(run_folder, data, tmp_path):
    """The same data with its categories renumbered the other way round gives the same numbers."""
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    for category in content["categories"]:
        category["id"] = {5: 70, 7: 2}[category["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = {5: 70, 7: 2}[annotation["category_id"]]
    (tmp_path / "val.json").write_text(json.dumps(content))
    swapped = run(
        run_folder, "--data", tmp_path / "val.json", "--split", "val=val.json", "--images", data / "images", "--json"
    )
    assert swapped.exit_code == 0, swapped.output
    assert json.loads(swapped.stdout)["stats"] == json.loads(run(run_folder, "--json").stdout)["stats"]


def test_weights_alone_need_a_data_set(run_folder):
    result = run(run_folder / "checkpoints" / "last.safetensors")
    assert result.exit_code == 2
    assert "--data PATH" in result.stderr


def test_a_run_without_its_data_says_how_to_name_it(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / "data.json").unlink()
    result = run(tmp_path / "run")
    assert result.exit_code == 2
    assert "--data PATH" in result.stderr
    with pytest.raises(RunError, match="--images FOLDER"):
        check_images(tmp_path / "run", None)


def test_numbers_are_printed_though_predictions_cannot_be_written(run_folder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    result = run(run_folder, "--predictions", tmp_path / "file" / "found.json")
    assert result.exit_code == 2
    assert " Average Precision " in result.stdout
    assert f"boxwright: {tmp_path / 'file'}" in result.stderr


def test_bad_images_are_told_or_left_out(run_folder, data, tmp_path):
    copy, trained = tmp_path / "data", tmp_path / "run"
    shutil.copytree(data, copy)
    shutil.copytree(run_folder, trained)
    images = sorted((copy / "images").iterdir())
    for image in images[-3:-1]:
        image.write_bytes(b"no image")
    result = run(trained, "--data", copy)
    assert result.exit_code == 2
    assert result.stderr.endswith(" or leave them out with --skip-bad\n")
    result = run(trained, "--data", copy, "--skip-bad", "--json")
    assert result.exit_code == 0, result.output
    skipped = result.stderr.count("skipped: ")
    assert skipped
    assert json.loads(result.stdout)["images"] == 3 - skipped
    (trained / "data.json").write_text(json.dumps({"path": str(copy), "skip_bad": True}))
    assert run(trained).stderr.count("skipped: ") == skipped  # a run is measured as it was trained
