import json
import os
import shutil
from contextlib import nullcontext

import pytest
import torch
import yaml

from boxwright.data import open_dataset
from boxwright.data.check import check_dataset
from boxwright.data.loader import verify_images
from boxwright.data.readers.yolo import sniff
from boxwright.errors import DataError
from datasets import (
    BOXES,
    coco_content,
    voc_object,
    voc_xml,
    write_coco,
    write_csv,
    write_images,
    write_voc,
    write_yolo,
)

WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo, "csv": write_csv}


def contents(index):
    """Return split → image name → sorted (class, box, crowd)."""
    result = {}
    for split in index.splits:
        for record in index.split(split):
            objects = zip(record.labels.tolist(), record.boxes.tolist(), record.crowd.tolist(), strict=True)
            named = sorted((index.class_names[label], tuple(box), crowd) for label, box, crowd in objects)
            result.setdefault(split, {})[record.path.name] = named
    return result


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_says_the_same(tmp_path, format):
    index = open_dataset(WRITERS[format](tmp_path), splits=None, val_fraction=0.3)

    assert index.format == format
    assert index.class_names == ("cat", "dog")
    merged = {name: objects for split in contents(index).values() for name, objects in split.items()}
    expected = {name: sorted((c, tuple(map(float, b)), False) for c, b in objects) for name, objects in BOXES.items()}
    assert merged.keys() == {"a.png", "b.png", "c.png"}
    assert merged["c.png"] == []
    for name, objects in expected.items():
        assert [c for c, _, _ in merged[name]] == [c for c, _, _ in objects]
        for (_, box, _), (_, want, _) in zip(merged[name], objects, strict=True):
            torch.testing.assert_close(torch.tensor(box), torch.tensor(want))
    assert index.splits == ("train", "val")
    assert any("no val split: 1 of 3" in note for note in index.notes)


@pytest.mark.parametrize("format", WRITERS)
def test_format_asked_for_is_used(tmp_path, format):
    path = WRITERS[format](tmp_path)
    assert open_dataset(path, format=format).format == format
    with pytest.raises(DataError, match="format 'pascal' is not known; choose one of: coco, voc, yolo, csv"):
        open_dataset(path, format="pascal")


@pytest.mark.parametrize("format", WRITERS)
def test_names_may_have_been_written_on_windows(tmp_path, format):
    """With a backslash between folder and file, and CRLF at the ends of lines."""
    write_images(tmp_path / "images" / "sub", ("a.png", "b.png"))
    images = [{"id": i, "file_name": f"sub\\{name}.png", "width": 100, "height": 80} for i, name in enumerate("ab")]
    files = {
        "coco": {"annotations/instances_train.json": json.dumps(coco_content(images=images, annotations=[]), indent=1)},
        "voc": {
            **{
                f"Annotations/{name}.xml": voc_xml(f"sub\\{name}.png", voc_object("cat", (1, 2, 3, 4))) for name in "ab"
            },
            "ImageSets/Main/train.txt": "a\nb\n",
        },
        "yolo": {
            "data.yaml": "train: .\\list.txt\nnames: [cat]\n",
            "list.txt": ".\\images\\sub\\a.png\nimages\\sub\\b.png\n",
        },
        "csv": {"boxes.csv": "filename,class,xmin,ymin,xmax,ymax\nsub\\a.png,cat,1,2,3,4\nsub\\b.png,cat,1,2,3,4\n"},
    }
    for name, text in files[format].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode())
    index = open_dataset(tmp_path, format=format, val_fraction=0.5)
    paths = [record.path for split in index.splits for record in index.split(split)]
    assert sorted(paths) == [tmp_path / "images" / "sub" / name for name in ("a.png", "b.png")]


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(DataError, match="no annotations recognised"):
        open_dataset(tmp_path)
    for address in ("https://example.org/set.zip", "s3://bucket/set"):
        with pytest.raises(DataError, match="an address, and only files are read: download the data set first"):
            open_dataset(address)
    packed = tmp_path / "Set.ZIP"
    packed.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"Set.ZIP: packed; unpack it, and name the folder that comes out"):
        open_dataset(packed)
    with pytest.raises(DataError, match=r"no \.csv file with columns filename, class, xmin, ymin, xmax, ymax"):
        open_dataset(tmp_path, format="csv")


@pytest.mark.parametrize("format", WRITERS)
def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path, format):
    path = WRITERS[format](tmp_path)
    file = path if path.is_file() else next(path.rglob("a.xml" if format == "voc" else "a.txt"))
    file.write_bytes(file.read_bytes().replace(b"\n", b"\n\xff", 1) if b"\n" in file.read_bytes() else b"\n\xff")
    with pytest.raises(DataError, match=rf"{file.name}, line 2: "):
        open_dataset(path)


@pytest.mark.parametrize("format", WRITERS)
def test_a_class_is_one_line_of_text(tmp_path, format):
    """Tables, lists of classes and terminals could not show another."""
    broken = "traffic\n\tli\x1bght"
    objects = f"<object><name> traffic\n\tli\u0085ght</name><bndbox>{VOC_BOX}</bndbox></object>"
    files = {
        "coco": {
            "annotations/instances_train.json": json.dumps(coco_content(categories=[{"id": 3, "name": broken}]))
            .replace('"category_id": 7', '"category_id": 3')
            .replace("li\\u001bght", "li\\ud83cght")
        },
        "voc": {"Annotations/a.xml": voc_xml("a.png", objects)},
        "yolo": {
            "data.yaml": f"train: images\nnames: {json.dumps([broken])}\n",
            "labels/a.txt": "0 .5 .5 .1 .1\n",
        },
        "csv": {"boxes.csv": f'filename,class,xmin,ymin,xmax,ymax\na.png,"{broken}",1,2,3,4\nb.png,,,,,\n'},
    }
    write_images(tmp_path / "images")
    for name, text in files[format].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    index = open_dataset(tmp_path, format=format)
    assert index.class_names == ("traffic li ght",)
    assert sum(index.class_counts(split).sum() for split in index.splits) > 0


@pytest.mark.parametrize("format", WRITERS)
def test_utf16_is_named(tmp_path, format):
    path = WRITERS[format](tmp_path)
    file = path if path.is_file() else next(path.rglob("a.xml" if format == "voc" else "a.txt"))
    file.write_bytes(file.read_text().encode("utf-16"))
    with pytest.raises(DataError, match=rf"{file.name}, line 1: not UTF-8 text but UTF-16: save it as UTF-8"):
        open_dataset(path)


VOC_BOX = "<xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax>"
BOXED = {"id": 1, "image_id": 10, "bbox": [1, 2, 3, 4], "category_id": 3}


@pytest.mark.parametrize("format", WRITERS)
def test_a_data_set_that_an_archive_left_deeper_is_named(tmp_path, format):
    WRITERS[format](tmp_path / "set" / "set")
    with pytest.raises(DataError, match=rf"{tmp_path} is no data set, but \S+/set is one: name that folder"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("format", ["coco", "csv"])
def test_absolute_names_in_the_data_folder(tmp_path, format):
    file = WRITERS[format](tmp_path)
    expected = contents(open_dataset(file, cache=False))
    text = file.read_text(encoding="utf-8")
    for place, error in (("images", None), ("images/../../images", "leaves the data folder")):
        changed = text
        for name in ("a.png", "b.png", "c.png"):
            changed = changed.replace(name, f"{tmp_path}/{place}/{name}")
        file.write_text(changed, encoding="utf-8")
        with pytest.raises(DataError, match=error) if error else nullcontext():
            index = open_dataset(file, cache=False)
    read = {name: objects for split in contents(index).values() for name, objects in split.items()}
    assert read == {name: objects for split in expected.values() for name, objects in split.items()}


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_hidden_files_are_left_alone(tmp_path, format):
    """What macOS puts into archives, and the copies that Jupyter makes."""
    root = WRITERS[format](tmp_path)
    before = contents(open_dataset(root, cache=False))
    for file in [*root.rglob("a.*")]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7")
        (file.parent / ".ipynb_checkpoints").mkdir(exist_ok=True)
        shutil.copy(file, file.parent / ".ipynb_checkpoints" / f"a-checkpoint{file.suffix}")
    after = open_dataset(root, cache=False)
    assert contents(after) == before
    assert not any("without an image" in note for note in after.notes)


class TestCoco:
    def test_label_studios_notes_beside_yolo_are_no_coco_file(self, tmp_path):
        write_yolo(tmp_path)
        (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "cat"}], "info": {"year": 2024}}')
        assert open_dataset(tmp_path).format == "yolo"

    def test_names_written_as_in_an_address(self, tmp_path):
        write_images(tmp_path / "images", ("ä b.png", "c%20d.png", "e.png"))
        names = ("%C3%A4%20b.png", "c%20d.png", "%2e%2e/e.png")
        images = [{"id": i, "file_name": name, "width": 100, "height": 80} for i, name in enumerate(names)]
        index = open_dataset(write_coco(tmp_path, coco_content(images=images, annotations=[])))
        read = {index.split(split).name(i) for split in index.splits for i in range(len(index.split(split)))}
        assert read == {"ä b.png", "c%20d.png", "%2e%2e/e.png"}

    def test_the_group_that_roboflow_puts_before_the_categories_is_none(self, tmp_path):
        group = {"id": 0, "name": "pets", "supercategory": "none"}
        ours = [{"id": 3, "name": "cat", "supercategory": "pets"}, {"id": 7, "name": "dog", "supercategory": "pets"}]
        content = coco_content(categories=[group, *ours])
        index = open_dataset(write_coco(tmp_path, content))
        assert (index.class_names, index.category_ids) == (("cat", "dog"), (3, 7))
        assert "category 'pets' left out: it has no object, and is the supercategory of the others" in index.notes
        used = content["annotations"][0] | {"id": 9, "category_id": 0}
        index = open_dataset(write_coco(tmp_path, content | {"annotations": [*content["annotations"], used]}))
        assert index.class_names == ("pets", "cat", "dog")
        assert open_dataset(
            write_coco(tmp_path, content | {"categories": [group, ours[0] | {"supercategory": "x"}, ours[1]]})
        ).class_names == ("pets", "cat", "dog")

    @pytest.mark.parametrize("content", ["", "[]", '{"images": ['])
    def test_a_file_of_cocos_name_is_never_passed_over(self, tmp_path, content):
        write_coco(tmp_path)
        (tmp_path / "annotations" / "instances_val.json").write_text(content)
        with pytest.raises(DataError, match=r"instances_val.json(, line 1)?: not (valid JSON|a COCO file)"):
            open_dataset(tmp_path)

    def test_a_byte_order_mark(self, tmp_path):
        file = write_coco(tmp_path)
        file.rename(tmp_path / "annotations" / "cells.json").write_bytes(
            b"\xef\xbb\xbf" + json.dumps(coco_content()).encode()
        )
        assert len(open_dataset(tmp_path)) == 3

    def test_a_name_that_is_too_long_is_told(self, tmp_path):
        name = "x" * 300 + ".png"
        index = open_dataset(
            write_coco(
                tmp_path, coco_content(images=[{"id": 10, "file_name": name, "width": 9, "height": 9}], annotations=[])
            )
        )
        assert any("images of train not found" in note for note in index.notes)
        [problem] = verify_images(index.split("train")).values()
        assert "File name too long" in problem

    def test_an_area_below_zero_is_none(self, tmp_path):
        index = open_dataset(write_coco(tmp_path, coco_content(annotations=[BOXED | {"area": -1}])))
        assert {area for split in index.splits for r in index.split(split) for area in r.area.tolist()} == {12}

    def test_labels_follow_sorted_ids_and_crowd_and_area_are_kept(self, tmp_path):
        content = coco_content()
        content["annotations"][0] |= {"iscrowd": 1, "area": 123.5}
        index = open_dataset(write_coco(tmp_path, content))

        assert index.category_ids == (3, 7)
        record = next(r for split in index.splits for r in index.split(split) if r.path.name == "a.png")
        assert record.image_id == 10
        assert record.crowd.tolist() == [True, False]
        assert record.area.tolist() == [123.5, 94.0 * 74]

    def test_classes_give_the_order(self, tmp_path):
        index = open_dataset(write_coco(tmp_path), classes=["dog", "cat"])
        assert index.class_names == ("dog", "cat")
        assert index.category_ids == (7, 3)
        with pytest.raises(DataError, match="class 'dogs' is not a category"):
            open_dataset(tmp_path, classes=["dogs"])

    def test_categories_of_one_name_stay_apart(self, tmp_path):
        index = open_dataset(write_coco(tmp_path, coco_content(categories=[{"id": i, "name": "x"} for i in (3, 7)])))
        assert index.class_names == ("x (id 3)", "x (id 7)")
        assert any(note.startswith("1 class name used for several categories") for note in index.notes)

    def test_ids_that_a_table_has_made_floats(self, tmp_path):
        content = coco_content()
        for entry in (*content["images"], *content["annotations"], *content["categories"]):
            entry |= {key: float(value) for key, value in entry.items() if key.endswith("id")}
        index = open_dataset(write_coco(tmp_path / "floats", content))
        assert index.category_ids == (3, 7)
        assert contents(index) == contents(open_dataset(write_coco(tmp_path / "integers")))

    def test_a_category_of_several_groups_stays(self, tmp_path):
        categories = [
            {"id": 1, "name": "pets", "supercategory": "none"},
            {"id": 3, "name": "cat", "supercategory": ["pets", "animals"]},
            {"id": 7, "name": "dog", "supercategory": "pets"},
        ]
        index = open_dataset(write_coco(tmp_path, coco_content(categories=categories)))
        assert index.class_names == ("pets", "cat", "dog")

    def test_folders_and_other_json_beside(self, tmp_path):
        write_coco(tmp_path)
        (tmp_path / "annotations" / "folder.json").mkdir()
        (tmp_path / "annotations" / "captions.json").write_text("[1, 2]")
        assert open_dataset(tmp_path).splits == ("train", "val")

    def test_a_folder_per_split(self, tmp_path):
        for split in ("train", "valid"):
            write_images(tmp_path / split)
            (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(coco_content()))
        index = open_dataset(tmp_path)
        assert index.splits == ("train", "val")
        assert index.split("val")[0].path == tmp_path / "valid" / "a.png"

    def test_images_beside_by_year(self, tmp_path):
        file = write_coco(tmp_path, split="val2017")
        (tmp_path / "images").rename(tmp_path / "val2017")
        assert open_dataset(file).split("val")[0].path == tmp_path / "val2017" / "a.png"

    def test_images_given(self, tmp_path):
        file = write_coco(tmp_path / "set")
        elsewhere = write_images(tmp_path / "elsewhere")
        assert open_dataset(file, images=elsewhere).split("train")[0].path.parent == elsewhere

    def test_size_is_read_from_the_image_when_missing(self, tmp_path):
        content = coco_content()
        del content["images"][0]["width"]
        content["images"][1]["height"] = None
        index = open_dataset(write_coco(tmp_path, content))
        assert {(r.width, r.height) for split in index.splits for r in index.split(split)} == {(100, 80)}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"annotations": 3}, "'annotations' must be a list, found int"),
            ({"annotations": [3]}, "annotation number 0 is not an object"),
            ({"annotations": [{"id": "x"}]}, "id must be an integer, not 'x'"),
            ({"annotations": [{"id": 1, "image_id": 99}]}, "id 1: image_id 99 is not in the image list"),
            (
                {"annotations": [{"id": 1, "image_id": 10, "bbox": [1, 2, 3]}]},
                r"bbox must be four numbers .* found \[1, 2, 3\]",
            ),
            (
                {"annotations": [{"id": 1, "image_id": 10, "bbox": [1, 2, 3, 4], "category_id": 5}]},
                r"id 1: category_id 5 is not one of: 3 \(cat\), 7 \(dog\)",
            ),
            ({"images": [{"id": 1}]}, "an image needs an integer id and a file_name"),
            ({"images": [{"id": 1, "file_name": "../a.png"}]}, "'../a.png' leaves the data folder"),
            ({"images": [{"id": 1, "file_name": "/etc/passwd"}]}, "leaves the data folder"),
            ({"images": [{"id": 1, "file_name": "..\\a.png"}]}, "leaves the data folder"),
            ({"images": {}}, "not a COCO file"),
            ({"categories": [{"id": 1}]}, "a category needs an integer id and a name"),
            ({"categories": [{"id": 1, "name": " "}]}, "a category needs an integer id and a name"),
            ({"annotations": [BOXED | {"category_id": "3"}]}, r"category_id '3' is not one of: 3 \(cat\)"),
            ({"annotations": [BOXED | {"iscrowd": "no"}]}, "id 1: iscrowd must be 0 or 1, found 'no'"),
            ({"annotations": [BOXED | {"area": float("nan")}]}, "id 1: area must be a finite number, found nan"),
            ({"annotations": [BOXED | {"area": "12"}]}, "id 1: area must be a finite number, found '12'"),
            ({"annotations": [BOXED | {"area": 1e300}]}, r"id 1: area must be a finite number, found 1e\+300"),
            ({"annotations": [BOXED | {"category_id": 3.5}]}, r"category_id '3.5' is not one of: 3 \(cat\)"),
            (
                {"annotations": [{"id": 1, "image_id": 10, "segmentation": [[1, 2, 3, 4, 5, 6]], "category_id": 3}]},
                r"bbox must be four numbers \[x, y, w, h\], found none beside its segmentation",
            ),
        ],
    )
    def test_what_is_broken_is_named(self, tmp_path, change, message):
        file = write_coco(tmp_path, coco_content(**change))
        with pytest.raises(DataError, match=message) as error:
            open_dataset(file)
        assert str(error.value).startswith(str(file))

    def test_broken_json_names_the_line(self, tmp_path):
        file = write_coco(tmp_path)
        file.write_text('{\n"images": [\n}')
        with pytest.raises(DataError, match=r"instances_train.json, line 3: not valid JSON"):
            open_dataset(file)

    def test_categories_that_contradict_each_other(self, tmp_path):
        write_coco(tmp_path)
        write_coco(tmp_path, coco_content(categories=[{"id": 3, "name": "cow"}]), split="val")
        with pytest.raises(DataError, match="category 3 is 'cow' here and 'cat' elsewhere"):
            open_dataset(tmp_path)


class TestVoc:
    def test_splits_lists_and_difficult(self, tmp_path):
        lists = {
            f"ImageSets/Main/{s}.txt": text for s, text in {"train": "a\n", "val": "b\n", "dog_val": "b 1\n"}.items()
        }
        file = {"Annotations/b.xml": voc_xml("b.png", voc_object("dog", (1, 2, 3, 4), difficult=1))}
        index = open_dataset(write_voc(tmp_path, lists | file))
        assert index.splits == ("train", "val")
        assert index.split("val")[0].crowd.tolist() == [True]
        assert index.class_counts("val").tolist() == [0, 0]
        assert "in no split: 1 annotation file, for example c.xml" in index.notes

    def test_trainval_is_train_where_there_is_no_train(self, tmp_path):
        index = open_dataset(write_voc(tmp_path, {"ImageSets/Main/trainval.txt": "a\nb\n"}))
        assert index.splits == ("train", "val")
        assert len(index) == 2

    def test_list_of_a_class_has_a_second_column(self, tmp_path):
        write_voc(tmp_path, {"ImageSets/Main/dog_train.txt": "a  1\nb -1\n"})
        index = open_dataset(tmp_path, splits={"test": "ImageSets/Main/dog_train.txt"})
        assert len(index.split("test")) == 2
        assert [record.path.name for record in index.split("train")] == ["c.png"]  # not those of test as well
        assert "2 images of train left out, being in test as well" in index.notes

    @pytest.mark.parametrize(
        ("box", "extra", "first", "reason"),
        [
            ((0, 5, 9, 9), "", 0, "some boxes start below 1"),
            ((3, 5, 9, 9), "<source><database>The VOC2007 Database</database></source>", 1, "PASCAL VOC database"),
            ((3, 5, 9, 9), "<path>/home/x.jpg</path>", 0, "labelImg"),
            ((1, 5, 100, 9), "", 1, "boxes at the border run from 1 to the image size"),
            ((3, 5, 9, 9), "", 0, "nothing speaks for 1"),
        ],
    )
    def test_first_pixel_is_detected(self, tmp_path, box, extra, first, reason):
        (tmp_path / "Annotations").mkdir()
        (tmp_path / "Annotations" / "a.xml").write_text(voc_xml("a.png", voc_object("cat", box), extra))
        index = open_dataset(tmp_path)
        x1, y1, x2, y2 = box
        assert index.split("train")[0].boxes.tolist() == [[x1 - first, y1 - first, x2, y2]]
        assert any(reason in note for note in index.notes)
        forced = open_dataset(tmp_path, one_based=not first)
        assert forced.split("train")[0].boxes.tolist() == [[max(x1 - 1 + first, 0), y1 - 1 + first, x2, y2]]

    def test_images_are_found_by_the_name_of_the_annotation(self, tmp_path):
        write_voc(tmp_path, {"Annotations/a.xml": voc_xml("a.wrong")})
        assert open_dataset(tmp_path).split("train")[0].path.name in ("a.png", "b.png")
        paths = {record.path for split in ("train", "val") for record in open_dataset(tmp_path).split(split)}
        assert tmp_path / "JPEGImages" / "a.png" in paths

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"Annotations/a.xml": "<annotation>\n<object>\n</annotation>"}, "a.xml, line 3: not valid XML"),
            ({"Annotations/a.xml": voc_xml("../../x.png")}, "'../../x.png' leaves the data folder"),
            (
                {"Annotations/a.xml": voc_xml("a.png", "<object>\n<name>cat</name></object>")},
                "a.xml, line 4: an <object> needs .* found 'cat' and {'xmin': None",
            ),
            ({"Annotations/a.xml": voc_xml("a.png", voc_object("cat", ("1,5", 2, 3, 4)))}, "'xmin': '1,5'"),
            (
                {"Annotations/a.xml": voc_xml("a.png", voc_object("cat", (1, 2, 3, 4), difficult="no"))},
                "<difficult> must be 0 or 1, found 'no'",
            ),
            ({"Annotations/a.xml": "<html></html>"}, "a.xml: .*it holds <html>, not <annotation>"),
            (
                {"Annotations/a.xml": '<!DOCTYPE a [<!ENTITY e "x">]>\n<annotation>&e;</annotation>'},
                "a.xml: XML that is not accepted",
            ),
            ({"ImageSets/Main/train.txt": "a\nzebra\n"}, "train.txt, line 2: no file Annotations/zebra.xml"),
            ({"ImageSets/Main/train.txt": "../a\n"}, "train.txt, line 1: image id '../a' leaves"),
        ],
    )
    def test_what_is_broken_is_named(self, tmp_path, files, message):
        with pytest.raises(DataError, match=message):
            open_dataset(write_voc(tmp_path, files))

    def test_classes_given_make_others_unknown(self, tmp_path):
        write_voc(tmp_path)
        with pytest.raises(DataError, match=r"a.xml, line 5: class 'dog' is not one of: cat"):
            open_dataset(tmp_path, classes=["cat"])
        assert open_dataset(tmp_path, classes=["dog", "cow", "cat"]).class_names == ("dog", "cow", "cat")


class TestYolo:
    def test_a_name_that_is_no_utf8_is_refused(self, tmp_path):
        write_yolo(tmp_path)
        (tmp_path / "images" / "a.png").rename(tmp_path / "images" / os.fsdecode(b"caf\xe9.png"))
        with pytest.raises(DataError, match=r"the image name 'caf\\udce9.png' is not valid utf-8: rename it"):
            open_dataset(tmp_path)

    def test_data_yaml_with_the_paths_of_another_machine(self, tmp_path):
        for split in ("train", "valid"):
            write_yolo(tmp_path / split, names=None)
        content = {"train": "../train/images", "val": "../valid/images", "nc": 2, "names": ["cat", "dog"]}
        (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
        index = open_dataset(tmp_path)
        assert index.splits == ("train", "val")
        assert index.class_names == ("cat", "dog")
        assert contents(open_dataset(tmp_path / "data.yaml")) == contents(index)

    def test_yaml_that_leaves_the_folder(self, tmp_path):
        write_yolo(tmp_path / "other")
        root = tmp_path / "set"
        root.mkdir()
        (root / "data.yaml").write_text(f"train: {tmp_path}/other/images\nnames: [cat, dog]\n")
        with pytest.raises(DataError, match="data outside the data folder is not read"):
            open_dataset(root)

    def test_names_as_mapping_and_list_of_images(self, tmp_path):
        write_yolo(tmp_path, names=None)
        (tmp_path / "train.txt").write_text("./images/a.png\nimages/b.png\n")
        (tmp_path / "data.yaml").write_text("train: train.txt\nnames: {0: cat, 1: dog}\n")
        index = open_dataset(tmp_path)
        assert len(index) == 2
        assert index.class_names == ("cat", "dog")
        (tmp_path / "train.txt").write_text("images/a.png\n../b.png\n")
        with pytest.raises(DataError, match=r"train\.txt, line 2: image '\.\./b\.png' leaves the data folder"):
            open_dataset(tmp_path)

    @pytest.mark.parametrize("prefix", ["{here}/", "/home/someone/set/", "data/", "C:\\\\set\\\\", "../"])
    def test_a_list_of_images_with_the_paths_of_another_machine(self, tmp_path, prefix):
        write_yolo(tmp_path)
        lines = [prefix.format(here=tmp_path) + name for name in ("images/a.png", "images/b.png")]
        (tmp_path / "train.txt").write_text("\n".join(lines))
        (tmp_path / "data.yaml").write_text("train: train.txt\nnames: {0: cat, 1: dog}\n")
        index = open_dataset(tmp_path)
        assert sorted(len(record.boxes) for split in index.splits for record in index.split(split)) == [1, 2]

    def test_lists_beside_names_as_cvat_writes_them(self, tmp_path):
        write_yolo(tmp_path / "made")
        shutil.copytree(tmp_path / "made" / "images", tmp_path / "set" / "obj_train_data")
        shutil.copytree(tmp_path / "made" / "labels", tmp_path / "set" / "obj_train_data", dirs_exist_ok=True)
        for split, names in {"train": "ac", "valid": "b"}.items():
            lines = "".join(f"data/obj_train_data/{name}.png\n" for name in names)
            (tmp_path / "set" / f"{split}.txt").write_text(lines)
        (tmp_path / "set" / "obj.names").write_text("cat\ndog\n")
        index = open_dataset(tmp_path / "set")
        assert {split: [len(record.boxes) for record in index.split(split)] for split in index.splits} == {
            "train": [2, 0],
            "val": [1],
        }
        assert index.class_names == ("cat", "dog")

    def test_labelimgs_folder_of_images_and_labels(self, tmp_path):
        whole = contents(open_dataset(write_yolo(tmp_path / "two")))
        one = tmp_path / "one"
        shutil.copytree(tmp_path / "two" / "images", one)
        shutil.copytree(tmp_path / "two" / "labels", one, dirs_exist_ok=True)
        assert not sniff(one)  # photographs and texts may be anything
        shutil.copy(tmp_path / "two" / "classes.txt", one)
        assert contents(open_dataset(one)) == whole

    def test_the_splits_of_a_folder_below_are_not_taken_for_one(self, tmp_path):
        for split in ("train", "val", "test"):
            write_yolo(tmp_path / "set" / split, names=None)
        write_images(tmp_path / "set" / "images" / "train")
        write_images(tmp_path / "set" / "labels" / "train")
        with pytest.raises(DataError, match=r"is no data set, but .*/set is one"):
            open_dataset(tmp_path)

    @pytest.mark.parametrize("names", ["[no, 001]", "{0: no, 1: 001}"])
    def test_names_are_what_is_written(self, tmp_path, names):
        """YAML would make False and 1 of them."""
        write_yolo(tmp_path)
        (tmp_path / "data.yaml").write_text(f"train: images\nval: null\nnc: 2\nnames: {names}\n")
        index = open_dataset(tmp_path)
        assert index.class_names == ("no", "001")
        assert not any("nc is" in note for note in index.notes)

    def test_a_number_of_classes_that_the_names_contradict(self, tmp_path):
        write_yolo(tmp_path)
        (tmp_path / "data.yaml").write_text("train: images\nnc: 3\nnames: [cat, dog]\n")
        said = f"{tmp_path}/data.yaml: nc is 3, but names has 2 classes"
        assert f"1 class count that the names contradict, the first: {said}" in open_dataset(tmp_path).notes
        report = check_dataset(tmp_path)
        assert [finding.text for finding in report if finding.kind == "class-count"] == [said]
        assert report.exit_code(strict=True) == 1

    def test_key_points_after_the_box_are_no_polygon(self, tmp_path):
        write_yolo(tmp_path, {"a.txt": "0 0.5 0.5 0.2 0.1 0.45 0.5 0.9 0.9\n", "b.txt": "1 0.5 0.5 0.2 0.1 0 0 0"})
        (tmp_path / "data.yaml").write_text("train: images\nnames: [cat, dog]\nkpt_shape: [2, 2]\n")
        boxes = torch.cat([record.boxes for record in open_dataset(tmp_path, splits={"test": "images"}).split("test")])
        torch.testing.assert_close(boxes, torch.tensor([[40.0, 36, 60, 44]] * 2))

    def test_polygons_become_their_boxes(self, tmp_path):
        index = open_dataset(write_yolo(tmp_path, {"a.txt": "1 0.3 0.1 0.5 0.2 0.4 0.9\n"}))
        boxes = {r.path.name: r.boxes for split in index.splits for r in index.split(split)}
        torch.testing.assert_close(boxes["a.png"], torch.tensor([[30.0, 8.0, 50.0, 72.0]]))

    def test_images_without_a_label_file_are_said(self, tmp_path):
        write_yolo(tmp_path)
        assert "1 image without a label file, taken for background" in open_dataset(tmp_path).notes
        (tmp_path / "labels" / "c.txt").touch()
        assert not any("without a label file" in note for note in open_dataset(tmp_path).notes)

    def test_a_class_listed_twice(self, tmp_path):
        with pytest.raises(DataError, match="class 'cat' is listed twice"):
            open_dataset(write_yolo(tmp_path, names="cat\ncat\n"))

    def test_no_names(self, tmp_path):
        index = open_dataset(write_yolo(tmp_path, names=None))
        assert index.class_names == ("class_0", "class_1")
        assert any("no class names found" in note for note in index.notes)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("0 0.5 0.5 0.1", "expected 'class cx cy w h'"),
            ("cat 0.5 0.5 0.1 0.1", "expected 'class cx cy w h'"),
            ("-1 0.5 0.5 0.1 0.1", "expected 'class cx cy w h'"),
            ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "expected 'class cx cy w h'"),
            ("nan 0.5 0.5 0.1 0.1", "expected 'class cx cy w h'"),
            ("0.5 0.5 0.5 0.1 0.1", "expected 'class cx cy w h'"),
            ("2 0.5 0.5 0.1 0.1", r"class 2 is not one of: 0 \(cat\), 1 \(dog\)"),
            ("0 nan 0.5 0.1 0.1", "is not finite"),
            ("0 50 40 20 20", "lies outside its image"),
        ],
    )
    def test_what_is_broken_is_named(self, tmp_path, line, message):
        with pytest.raises(DataError, match=rf"a\.txt, line 2: .*{message}"):
            open_dataset(write_yolo(tmp_path, {"a.txt": f"\n{line}\n"}))

    def test_broken_yaml_names_the_line(self, tmp_path):
        write_yolo(tmp_path, names=None)
        (tmp_path / "data.yaml").write_text("train: images\nnames: [cat\nval: images\n")
        with pytest.raises(DataError, match=r"data.yaml, line \d: not valid YAML"):
            open_dataset(tmp_path)


class TestCsv:
    def test_header_by_any_usual_name(self, tmp_path):
        text = "image_path x1\n"
        with pytest.raises(DataError, match="line 1: no column for filename, class, xmin"):
            open_dataset(write_csv(tmp_path, text))
        with pytest.raises(DataError, match=r"train.csv, line 1: no column for .* in the header 'image_path x1'"):
            open_dataset(tmp_path)  # the folder
        text = "image;label;x1;y1;x2;y2\r\na.png;cat, wild;1,5;2;3;4,25\r\n"
        index = open_dataset(write_csv(tmp_path, text))
        assert index.split("train")[0].boxes.tolist() == [[1.5, 2, 3, 4.25]]
        assert index.class_names == ("cat, wild",)
        tabs = open_dataset(write_csv(tmp_path, text.replace(";", "\t")))
        assert tabs.split("train")[0].boxes.tolist() == [[1.5, 2, 3, 4.25]]
        text = "Image,Label, X1,Y1,X2,Y2,img_width,img_height\na.png, cat,1,2,3,4,100, 80\n"
        index = open_dataset(write_csv(tmp_path, text))
        record = index.split("train")[0]
        assert index.class_names == ("cat",)
        assert record.boxes.tolist() == [[1, 2, 3, 4]]
        assert (record.width, record.height) == (100, 80)

    def test_other_tables_beside_are_left_alone(self, tmp_path):
        write_csv(tmp_path)
        (tmp_path / "notes.csv").write_text("filename,author\na.png,me\n")
        assert open_dataset(tmp_path, val_fraction=0.3).splits == ("train", "val")
        assert sum(len(open_dataset(tmp_path).split(split)) for split in ("train", "val")) == 3

    @pytest.mark.parametrize(
        ("width", "found"), [("120.0", 120), ("3000000000", 100), ("0", 100), ("no", 100), ("120", 120)]
    )
    def test_a_width_that_cannot_be_is_read_from_the_image(self, tmp_path, width, found):
        text = f"filename,class,xmin,ymin,xmax,ymax,width,height\na.png,cat,1,2,3,4,{width},80\n"
        assert open_dataset(write_csv(tmp_path, text)).split("train")[0].width == found

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("a.png,cat,1,2,3", "5 values for 6 columns"),
            ("a.png,cat,1,2,3,x", "must be numbers"),
            ("a.png,,1,2,3,4", "a box without a class"),
            ("/a.png,cat,1,2,3,4", "'/a.png' leaves the data folder"),
            ("a.png,cat,1,2,inf,4", "is not finite"),
        ],
    )
    def test_what_is_broken_is_named(self, tmp_path, row, message):
        with pytest.raises(DataError, match=rf"train.csv, line 3: .*{message}"):
            open_dataset(write_csv(tmp_path, f"filename,class,xmin,ymin,xmax,ymax\nb.png,dog,1,2,3,4\n{row}\n"))


class TestRealData:
    def test_bccd_is_the_same_in_every_format(self, shared):
        root = shared / "data" / "bccd"
        coco, voc = open_dataset(root), open_dataset(root / "original")
        assert coco.describe() == "found: COCO, 364 images, 3 classes, splits train/val/test"
        assert voc.describe() == "found: Pascal VOC, 364 images, 3 classes, splits train/val/test"
        assert contents(voc) == contents(coco)
        assert coco.class_counts("train").tolist() == [2381, 214, 209]
        table = open_dataset(root / "original" / "test.csv")
        assert table.describe() == "found: CSV, 364 images, 3 classes, splits test"
        assert sum(map(len, contents(table)["test"].values())) == 4886

    def test_one_coco_file_gets_a_validation_split(self, shared):
        index = open_dataset(shared / "data" / "bccd" / "annotations" / "instances_train.json")
        assert [len(index.split(s)) for s in ("train", "val")] == [164, 41]
        assert index.split("train")[0].path.is_file()

    def test_aquarium_as_coco_and_as_yolo(self, shared):
        root = shared / "data" / "aquarium"
        coco, yolo = open_dataset(root), open_dataset(root, format="yolo")
        assert coco.class_names == yolo.class_names
        for split in ("train", "val", "test"):
            assert torch.equal(coco.class_counts(split), yolo.class_counts(split))
            assert len(coco.split(split)) == len(yolo.split(split))
        assert all(record.path.is_file() for record in yolo.split("val"))
