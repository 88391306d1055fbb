import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from boxwright.counts import counted
from boxwright.data import open_dataset
from boxwright.data.convert import convert
from boxwright.data.dataset import read_record
from boxwright.data.files import new_folder
from boxwright.errors import DataError
from datasets import SIZE, coco_content, write_coco, write_images, write_voc, write_yolo

FORMATS = ("coco", "voc", "yolo")
CLASSES = ("zebra", "<ant> & 'bee'", "Kuh Ä")  # neither sorted nor plain


@st.composite
def boxes(draw):
    """Draw a box inside the image, of any float32 coordinates."""
    corners = []
    for length in SIZE:
        low = draw(st.floats(0, length - 1, width=32))
        corners.append((low, low + draw(st.floats(0.5, length - low))))
    (x1, x2), (y1, y2) = corners
    return torch.tensor([x1, y1, min(x2, SIZE[0]), min(y2, SIZE[1])]).tolist()


image_names = st.text("ab1éß& '-_", min_size=1, max_size=6).map(str.strip).filter(bool)
objects = st.lists(st.tuples(boxes(), st.integers(0, 2), st.booleans()), max_size=4)
splits = st.dictionaries(
    st.sampled_from(("train", "val", "test")), st.dictionaries(image_names, objects, min_size=1, max_size=3), min_size=1
).filter(lambda found: "val" in found or "train" not in found)  # else a validation split would be made


def write(root: Path, content):
    """Write drawn content as COCO files, one image folder per split."""
    for split, images in content.items():
        listed, annotations = [], []
        for i, (name, drawn) in enumerate(images.items()):
            listed.append({"id": i, "file_name": f"{split}/{name}.png", "width": SIZE[0], "height": SIZE[1]})
            for (x1, y1, x2, y2), label, crowd in drawn:
                annotation = {"id": len(annotations), "image_id": i, "category_id": label + 1, "iscrowd": int(crowd)}
                annotations.append(annotation | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
        write_images(root / "images" / split, tuple(f"{name}.png" for name in images))
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(
            json.dumps({"images": listed, "annotations": annotations, "categories": categories})
        )
    return root


def assert_equal(one, two, atol=0.0, crowds=True):
    """Assert that two indices hold the same images and objects, in any order of images."""
    assert one.class_names == two.class_names
    assert one.splits == two.splits
    for split in one.splits:
        records = [
            {index.split(split).name(i).replace("/", "_"): r for i, r in enumerate(index.split(split))}
            for index in (one, two)
        ]
        assert records[0].keys() == records[1].keys()
        for name, a in records[0].items():
            b, keep = records[1][name], torch.ones_like(a.crowd) if crowds else ~a.crowd
            assert (a.width, a.height) == (b.width, b.height)
            assert a.path.read_bytes() == b.path.read_bytes()
            assert torch.equal(a.labels[keep], b.labels)
            assert torch.equal(a.crowd[keep], b.crowd)
            torch.testing.assert_close(a.boxes[keep], b.boxes, rtol=0, atol=atol)


@pytest.mark.parametrize("to", FORMATS)
@settings(max_examples=12, deadline=None)
@given(content=splits)
def test_round_trip(to, content):
    exact = to != "yolo"
    with tempfile.TemporaryDirectory() as folder:
        source = open_dataset(write(Path(folder) / "source", content), cache=False)
        notes = convert(source, Path(folder) / "there", to)
        there = open_dataset(Path(folder) / "there", cache=False)
        assert there.format == to
        crowds = sum(crowd for images in content.values() for drawn in images.values() for _, _, crowd in drawn)
        assert notes == (
            [f"{counted(crowds, 'crowd region')} left out: YOLO cannot mark them"] if crowds and not exact else []
        )
        assert_equal(source, there, atol=0 if exact else 1e-5, crowds=exact)
        if to == "coco":
            assert there.category_ids == source.category_ids
            for split in source.splits:
                assert [r.image_id for r in there.split(split)] == [r.image_id for r in source.split(split)]
        convert(there, Path(folder) / "back", "coco")
        assert_equal(there, open_dataset(Path(folder) / "back", cache=False))


@pytest.mark.parametrize("frame", ["stored", "upright"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_stay_on_their_pixels_however_a_photograph_lies(tmp_path, orientation, frame):
    """A white block in a picture that EXIF turns, annotated as people see it, or by size as the pixels are stored."""
    root, picture = tmp_path / "source", Image.new("L", (100, 80))
    picture.paste(255, (20, 10, 70, 30))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    write_images(root / "images", ())
    picture.save(root / "images" / "a.png", exif=exif)
    shown = ImageOps.exif_transpose(Image.open(root / "images" / "a.png"))
    seen = picture if frame == "stored" and shown.size != picture.size else shown
    x1, y1, x2, y2 = seen.getbbox()
    content = coco_content(
        images=[{"id": 10, "file_name": "a.png", "width": seen.width, "height": seen.height}],
        annotations=[{"id": 1, "image_id": 10, "category_id": 3, "bbox": [x1, y1, x2 - x1, y2 - y1]}],
    )
    (root / "annotations.json").write_text(json.dumps(content))
    for to in FORMATS:
        convert(open_dataset(root, splits={"val": "annotations.json"}), tmp_path / to, to)
        (record,) = open_dataset(tmp_path / to).split("val")
        rows, columns = torch.where(read_record(record)[0] > 127)
        extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        torch.testing.assert_close(record.boxes, torch.tensor([extent]).float(), atol=1e-4, rtol=0)


def test_labels_of_names_with_a_folder_images_are_found_again(tmp_path):
    """Label Studio writes such names; a label file is sought in `labels` for the last `images` of the path."""
    content = coco_content()
    for image in content["images"]:
        image["file_name"] = f"images/{image['file_name']}"
    write_coco(tmp_path / "a", content, "val")
    source = open_dataset(tmp_path / "a")
    convert(source, tmp_path / "b", "yolo")
    assert_equal(source, open_dataset(tmp_path / "b"), atol=1e-5)


def test_areas_and_ids_of_coco_survive(tmp_path):
    content = json.loads(json.dumps(coco_content()).replace('id": 3,', 'id": 1,'))
    content["annotations"][0]["area"] = 77.5
    write_coco(tmp_path / "a", content, "val")
    convert(open_dataset(tmp_path / "a"), tmp_path / "b", "coco")
    one, two = (open_dataset(tmp_path / name).split("val")[0] for name in "ab")
    assert one.area.tolist() == two.area.tolist() == [77.5, 6956]
    assert open_dataset(tmp_path / "b").category_ids == (1, 7)
    assert convert(open_dataset(tmp_path / "a"), tmp_path / "c", "voc") == [
        "the area of annotations (COCO's, of masks) is not kept: Pascal VOC has none"
    ]


def test_class_order_of_the_user_survives(tmp_path):
    write_coco(tmp_path / "a", split="val")
    for to in FORMATS:
        convert(open_dataset(tmp_path / "a", classes=["dog", "cat"]), tmp_path / to, to)
        assert open_dataset(tmp_path / to).class_names == ("dog", "cat")


def test_coco_ids_start_at_1(tmp_path):
    convert(open_dataset(write_yolo(tmp_path / "a")), tmp_path / "b", "coco")
    assert open_dataset(tmp_path / "b").category_ids == (1, 2)


def test_a_new_folder_is_written_beside_its_place_and_renamed(tmp_path):
    """A rename is whole or absent, but only inside one file system."""
    place = tmp_path / "deep" / "down" / "set"
    with new_folder(place) as partial:
        (partial / "file").touch()
        assert place.parent in partial.parents
        assert not place.exists()
        place.mkdir()  # an empty one is as good as none
    assert [path.name for path in place.parent.rglob("*")] == ["set", "file"]


def test_refusals_leave_nothing_behind(tmp_path):
    index = open_dataset(write_voc(tmp_path / "a"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for taken in ("full", "full/file"):
        with pytest.raises(DataError, match=f"{taken} exists already"):
            convert(index, tmp_path / taken, "coco")
    with pytest.raises(DataError, match="cannot convert to 'csv'; choose one of: coco, voc, yolo"):
        convert(index, tmp_path / "b", "csv")
    (tmp_path / "a" / "JPEGImages" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: cannot be copied"):
        convert(index, tmp_path / "b", "coco")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "full"]


@pytest.mark.parametrize("to", ["voc", "yolo"])
def test_names_that_would_meet_in_one_annotation_file(tmp_path, to):
    images = [{"id": i, "file_name": f"a.{ending}"} for i, ending in enumerate(("png", "bmp"))]
    file = write_coco(tmp_path / "a", coco_content(images=images, annotations=[]), "val")
    write_images(tmp_path / "a" / "images", ("a.bmp",))
    with pytest.raises(DataError, match=r"would both become .*; rename one"):
        convert(open_dataset(file), tmp_path / "b", to)


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("name", ["bccd", "aquarium"])
def test_real_data(shared, tmp_path, name, to):
    source = open_dataset(shared / "data" / name)
    convert(source, tmp_path / "there", to)
    assert_equal(source, open_dataset(tmp_path / "there"), atol=0 if to != "yolo" else 1e-4)
