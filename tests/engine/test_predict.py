"""Prediction on files: pictures, one JSON, and images that cannot be read."""

import json
import os

import pytest
import torch
from PIL import Image
from torch import nn

from boxwright.engine.predict import find_images, predict_files
from boxwright.errors import DataError
from boxwright.structures import Detections

BOXES = torch.tensor([[[2.0, 3, 40, 30], [10, 10, 20, 20], [0, 0, 5, 5]]])


class Finder(nn.Module):
    """Finds the same three objects in every image."""

    class_names = ("cell", "platelet")

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        count = len(images)
        assert all(image.dtype == torch.uint8 and image.shape[0] == 3 for image in images)
        return Detections(
            boxes=BOXES.expand(count, 3, 4),
            scores=torch.tensor([0.9, 0.6, 0.1]).expand(count, 3),
            labels=torch.tensor([1, 0, 0]).expand(count, 3),
            count=torch.full((count,), 3),
        )


@pytest.fixture
def folder(tmp_path):
    """Nine good images of several kinds and two that are none."""
    root = tmp_path / "images"
    (root / "below").mkdir(parents=True)
    for number in range(7):
        Image.new("RGB", (64 + number, 48)).save(root / f"{number}.png")
    Image.new("L", (50, 40)).save(root / "3.jpg")
    Image.new("RGBA", (50, 40)).save(root / "below" / "3.png")
    (root / "broken.jpg").write_bytes((root / "3.jpg").read_bytes()[:200])
    (root / "text.png").write_text("no image")
    (root / "notes.txt").write_text("not asked for")
    return root


def test_folder_with_bad_images(folder, tmp_path):
    seen = []
    predictions = predict_files(Finder(), [folder], tmp_path / "out", report=seen.append)
    assert seen == predictions
    assert len(predictions) == 11
    bad = [entry for entry in predictions if entry.error is not None]
    assert [entry.file.name for entry in bad] == ["broken.jpg", "text.png"]
    assert all(entry.file.name in entry.error for entry in bad)
    pictures = [entry.picture for entry in predictions if entry.picture is not None]
    assert len(set(pictures)) == 9
    assert tmp_path / "out" / "below" / "3.jpg" in pictures
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.format == "JPEG"


def test_json_says_what_was_found(folder, tmp_path):
    predict_files(Finder(), [folder / "0.png", folder / "text.png"], tmp_path / "out", score=0.5)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["classes"] == ["cell", "platelet"]
    good, bad = content["images"]
    assert good == {
        "file": str(folder / "0.png"),
        "picture": str(tmp_path / "out" / "0.jpg"),
        "width": 64,
        "height": 48,
        "objects": [
            {"class": "platelet", "label": 1, "score": 0.9, "box": [2.0, 3.0, 40.0, 30.0]},
            {"class": "cell", "label": 0, "score": 0.6, "box": [10.0, 10.0, 20.0, 20.0]},
        ],
    }
    assert bad["file"] == str(folder / "text.png")
    assert "text.png" in bad["error"]


def test_counts_are_written_out(folder, tmp_path):
    few, none = (
        predict_files(Finder(), [folder / "0.png"], tmp_path / "out", score=score)[0].counts() for score in (0.05, 0.95)
    )
    assert (few, none) == ("2 cell, 1 platelet", "nothing found")


def test_files_folders_and_patterns_are_found_once(folder):
    names = [str(name) for _, name in find_images([folder / "1.png", f"{folder}/*.png", folder])]
    assert names[:3] == ["1.png", "0.png", "2.png"]
    assert len(names) == len(set(names)) == 11
    assert "below/3.png" in names


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing.png", "there is no image"),
        ("http://a/b.png", "is an address: download it first"),
        ("gone.mp4", "there is no image"),
        ("shot.MP4", r"shot\.MP4 is a video: take its frames first, for example: ffmpeg -i .*shot\.MP4 %06d\.png"),
        ("*.gif", "matches no image"),
        ("empty", "holds no image"),
    ],
)
def test_nothing_to_predict_is_named(source, words, folder):
    (folder / "empty").mkdir()
    (folder / "shot.MP4").touch()
    with pytest.raises(DataError, match=words):
        find_images([source if "://" in source else folder / source])


def test_pictures_are_not_predicted_again(folder):
    first = predict_files(Finder(), [folder], folder / "predictions")
    second = predict_files(Finder(), [folder], folder / "predictions")
    assert [entry.file for entry in first] == [entry.file for entry in second]


def test_images_are_not_replaced_by_their_pictures(folder):
    before = {file: file.read_bytes() for file in folder.glob("*.png")}
    (folder / "link").symlink_to(folder)
    for source, output in ((folder, folder), (folder / "1.png", folder / "below" / ".."), (folder, folder / "link")):
        with pytest.raises(DataError, match=r"all images lie in .*choose another --output"):
            predict_files(Finder(), [source], output)
    assert before == {file: file.read_bytes() for file in folder.glob("*.png")}
    assert not (folder / "predictions.json").exists()


def test_a_name_that_is_no_utf8_is_read_back(folder, tmp_path):
    image = folder / os.fsdecode(b"caf\xe9.png")
    (folder / "1.png").rename(image)
    [found] = predict_files(Finder(), [image], tmp_path / "out")
    assert found.picture.is_file()
    [entry] = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert entry["file"] == str(image)


def test_output_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "out").write_text("a file, no folder")
    with pytest.raises(DataError, match="cannot write to"):
        predict_files(Finder(), [folder], tmp_path / "out")
