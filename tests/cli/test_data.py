import json

import pytest
from typer.testing import CliRunner

from boxwright.cli.data import app
from datasets import coco_content, write_coco, write_voc


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("bbox", "code", "strict"), [([1, 2, 3, 4], 0, 0), ([1, 2, 0, 4], 0, 1), ([90, 2, 50, 4], 2, 2)]
)
def test_exit_codes(tmp_path, bbox, code, strict):
    content = coco_content()
    content["annotations"][0]["bbox"] = bbox
    file = write_coco(tmp_path, content)
    assert run("check", file).exit_code == code
    assert run("check", file, "--strict").exit_code == strict


def test_check_prints_counts_findings_and_advice(tmp_path):
    content = coco_content()
    content["annotations"] += [{"id": i, "image_id": 11, "category_id": 7, "bbox": [5 * i, 5, 0, 0]} for i in range(12)]
    result = run("check", write_coco(tmp_path, content), "--limit", 3)
    assert "found: COCO, 3 images, 2 classes, splits train" in result.output
    assert "warning: box-empty (12)" in result.output
    assert "  instances_train.json, id 0: b.png (100x80): dog xyxy [0, 5, 0, 5] has no area" in result.output
    assert "… and 9 more (--limit 0 shows all)" in result.output
    assert "→ dropped when loaded" in result.output
    assert result.output.endswith("0 errors, 12 warnings, 2 infos\n")
    assert "more (" not in run("check", tmp_path, "--limit", 0).output


def test_names_of_classes_are_no_markup(tmp_path):
    categories = [{"id": 3, "name": "[red]cat[/]"}, {"id": 7, "name": "dog"}]
    result = run("check", write_coco(tmp_path, coco_content(categories=categories)))
    assert "│ [red]cat[/] " in result.output


def test_check_json(tmp_path):
    result = run("check", write_voc(tmp_path), "--json")
    report = json.loads(result.output)
    assert report["totals"] == {"image-background": 1}
    assert report["severities"] == {"error": 0, "warning": 0, "info": 1}
    assert report["findings"][0]["file"].endswith("c.xml")
    assert report["statistics"]["classes"] == {"cat": 1, "dog": 2}


def test_convert_and_stats(tmp_path):
    source = write_voc(tmp_path / "a")
    result = run("convert", source, tmp_path / "b", "--to", "yolo")
    assert result.exit_code == 0
    assert f"written: {tmp_path / 'b'}" in result.output
    result = run("stats", tmp_path / "b", "--json")
    assert json.loads(result.output)["classes"] == {"cat": 1, "dog": 2}
    result = run("stats", tmp_path / "b", "--split", "val=train")
    assert "found: YOLO, 2 images, 2 classes, splits val" in result.output
    assert "dog" in result.output


def test_numbers_stay_whole_where_there_is_little_room(tmp_path, monkeypatch):
    content = coco_content(categories=[{"id": 3, "name": "cat" * 20}, {"id": 7, "name": "dog"}])
    monkeypatch.setenv("COLUMNS", "40")
    result = run("stats", write_coco(tmp_path, content))
    assert "…" not in result.stdout
    assert "66.7%" in result.stdout


def test_options_reach_the_reader(tmp_path):
    write_coco(tmp_path)
    result = run("stats", tmp_path, "--classes", "dog, cat", "--format", "coco", "--json")
    assert list(json.loads(result.output)["classes"]) == ["dog", "cat"]
    assert run("stats", tmp_path, "--split", "val").exception.args[0].startswith("--split 'val' must read NAME=PATH")
