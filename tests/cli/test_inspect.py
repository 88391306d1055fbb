"""`boxwright inspect`."""

import json

from typer.testing import CliRunner

from boxwright.cli.app import app
from boxwright.engine import train
from datasets import coco_content, write_coco
from inspect_scenes import write_dataset


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_page_and_numbers_are_written(tmp_path):
    root, page = write_dataset(tmp_path / "set"), tmp_path / "out" / "page.html"
    result = run("--data", root, "--set", "data.size=128", "--assigner", "atss", "--no-sweep", "--output", page)
    assert result.exit_code == 0, result.output
    assert "of 9" in result.stdout
    assert "k-means" in result.stdout
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    report = json.loads(page.with_suffix(".json").read_text())
    assert [len(assigner["steps"]) for assigner in report["assigners"]] == [1, 1]


def test_a_page_without_the_suffix_of_one_is_a_folder(tmp_path):
    root = write_dataset(tmp_path / "set")
    result = run("a.png", "--data", root, "--assigner", "atss", "--no-sweep", "--output", tmp_path / "v1.0")
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in (tmp_path / "v1.0").iterdir()) == ["inspect.html", "inspect.json"]
    result = run("a.png", "--data", root, "--output", tmp_path / "v1.0" / "inspect.json")
    assert result.exit_code == 2
    assert "inspect.json is a file, not a folder" in result.stderr


def test_an_image_of_a_split_is_looked_at_alone(tmp_path):
    root, page = write_dataset(tmp_path / "set"), tmp_path / "page.html"
    result = run("a.png", "--data", root, "--split", "val", "--no-sweep", "--assigner", "ssd", "--output", page)
    assert result.exit_code == 0, result.output
    data = json.loads(page.with_suffix(".json").read_text())["data"]
    assert (data["split"], data["images"], data["objects"]) == ("val", 1, 4)


def test_an_image_is_found_in_whichever_split_holds_it(tmp_path):
    root, page = write_dataset(tmp_path / "set"), tmp_path / "page.html"
    file = root / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"] = [image for image in content["images"] if image["file_name"] != "a.png"]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != 0]
    file.write_text(json.dumps(content))
    for name, split in (("a.png", "val"), ("d.png", "train")):
        result = run(name, "--data", root, "--no-sweep", "--assigner", "atss", "--output", page)
        assert result.exit_code == 0, result.output
        assert json.loads(page.with_suffix(".json").read_text())["data"]["split"] == split
    result = run("z.png", "--data", root, "--output", page)
    assert result.exit_code == 2
    assert "no split of train, val holds z.png" in result.stderr


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


def test_a_run_brings_its_data_its_recipe_and_a_list_for_relabelling(tmp_path):
    root, page = write_dataset(tmp_path / "set"), tmp_path / "page.html"
    small = ["schedule.epochs=1", "data.size=128", "data.batch_size=2", "data.workers=0"]
    trained = train("gfl-tiny", root, overrides=small, output=tmp_path / "run", quiet=True)
    for source in (trained.path, trained.weights_path):
        where = ("--data", root) if source.is_file() else ()
        result = run("--run", source, *where, "--no-sweep", "--assigner", "simota", "--output", page, "--device", "cpu")
        assert result.exit_code == 0, result.output
    report = json.loads(page.with_suffix(".json").read_text())
    assert report["recipe"]["name"] == "gfl-tiny"
    assert [assigner["stage"] for assigner in report["assigners"]] == [None, 0, 1]
    lines = (tmp_path / "page-relabel.csv").read_text().splitlines()
    assert lines[0].startswith("rank,image,class,x1,y1,x2,y2,reasons,score")
    assert report["data"]["objects"] == 9
    assert len(lines) == 1 + 9 + len(report["relabel"]["unlabelled"]["rows"])
    for arguments, sentence in {
        ("--run", trained.path, "--recipe", "atss"): "a run brings its own recipe",
        ("--run", trained.weights_path): "--data PATH",
        (): "--data PATH",
    }.items():
        refused = run(*arguments)
        assert refused.exit_code == 2
        assert sentence in refused.stderr


def test_images_that_a_run_left_out_are_left_out_again(tmp_path):
    root, page = write_dataset(tmp_path / "set"), tmp_path / "page.html"
    image = root / "images" / "b.png"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    small = ["schedule.epochs=1", "data.size=64", "data.batch_size=2", "data.workers=0"]
    trained = train("gfl-tiny", root, overrides=small, output=tmp_path / "run", skip_bad=True, quiet=True)
    options = ("--no-sweep", "--assigner", "atss", "--output", page, "--device", "cpu")
    result = run("--run", trained.path, *options)
    assert result.exit_code == 0, result.output
    assert f"skipped: {image}" in result.stderr
    report = json.loads(page.with_suffix(".json").read_text())
    result = run("--run", trained.weights_path, "--data", root, *options)
    assert result.exit_code == 2
    assert str(image) in result.stderr
    result = run("--run", trained.weights_path, "--data", root, "--skip-bad", *options)
    assert result.exit_code == 0, result.output
    assert json.loads(page.with_suffix(".json").read_text())["data"] == report["data"]


def test_without_any_object_there_is_nothing_to_look_at(tmp_path):
    file = write_coco(tmp_path, coco_content(annotations=[]))
    result = run("--data", file, "--output", tmp_path / "page.html")
    assert result.exit_code == 2
    assert "no image of train has an object, so that there is nothing to look at" in result.stderr
    assert not (tmp_path / "page.html").exists()
