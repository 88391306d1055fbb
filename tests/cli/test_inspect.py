"""`boxwright inspect`."""

import json

from typer.testing import CliRunner

from boxwright.cli.app import app
from inspect_scenes import write_dataset


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_page_and_numbers_are_written(tmp_path):
    root, page = write_dataset(tmp_path / "set"), tmp_path / "out" / "page.html"
    result = run("--data", root, "--set", "data.size=128", "--assigner", "atss", "--no-sweep", "--output", page)
    assert result.exit_code == 0, result.output
    assert "of 9" in result.stdout
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    report = json.loads(page.with_suffix(".json").read_text())
    assert [len(assigner["steps"]) for assigner in report["assigners"]] == [1, 1]


def test_an_image_of_a_split_is_looked_at_alone(tmp_path):
    root, page = write_dataset(tmp_path / "set"), tmp_path / "page.html"
    result = run("a.png", "--data", root, "--split", "val", "--no-sweep", "--assigner", "ssd", "--output", page)
    assert result.exit_code == 0, result.output
    data = json.loads(page.with_suffix(".json").read_text())["data"]
    assert (data["split"], data["images"], data["objects"]) == ("val", 1, 4)


def test_mistakes_are_one_sentence(tmp_path):
    root = write_dataset(tmp_path / "set")
    for arguments, sentence in {
        ("--assigner", "atsss"): "did you mean 'atss'",
        ("--split", "night"): "no split 'night'",
        ("--recipe", "yolov2"): "no assigner that could be exchanged",
    }.items():
        result = run("--data", root, "--output", tmp_path / "page.html", *arguments)
        assert result.exit_code == 2
        assert sentence in result.stderr
    assert not (tmp_path / "page.html").exists()
