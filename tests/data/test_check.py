import json
import shutil

import numpy as np
import pytest
from PIL import Image

from boxwright.data import open_dataset
from boxwright.data.check import check_dataset
from boxwright.data.findings import KINDS, SEVERITIES
from boxwright.errors import DataError
from datasets import coco_content, voc_object, voc_xml, write_coco, write_csv, write_images, write_voc, write_yolo


def kinds(report, *expected):
    """Assert that exactly these kinds (name, number) are found, beside the background image of every small set."""
    ranks = [SEVERITIES.index(finding.severity) for finding in report]
    assert ranks == sorted(ranks)
    totals = report.totals
    assert totals.pop("image-background") == 1
    assert totals == dict(expected)
    assert set(totals) <= set(KINDS)


def only(report, kind):
    (finding,) = [finding for finding in report if finding.kind == kind]
    return finding


def box(*bbox, category=3, image=10, **more):
    content = coco_content()
    content["annotations"].append({"id": 7, "image_id": image, "category_id": category, "bbox": list(bbox)} | more)
    return content


@pytest.mark.parametrize("write", [write_coco, write_voc, write_yolo, write_csv])
def test_clean_sets_are_clean(tmp_path, write):
    report = check_dataset(write(tmp_path))
    gap = [("category-gap", 1)] if write is write_coco else []
    kinds(report, *gap)
    assert report.exit_code(strict=True) == 0
    assert report.statistics.classes == {"cat": 1, "dog": 2}
    assert only(report, "image-background").message == "c.png: no annotation"


class TestBoxes:
    @pytest.mark.parametrize(
        ("content", "kind", "severity", "words"),
        [
            (box(5, 5, 0, 5), "box-empty", "warning", "cat xyxy [5, 5, 5, 10] has no area"),
            (box(5, 5, -2, 5), "box-empty", "warning", "inverted"),
            (box(-0.5, 5, 20, 5), "box-clipped", "warning", "slightly over the border"),
            (box(-20, 5, 50, 5), "box-outside", "error", "a.png (100x80): cat xyxy [-20, 5, 30, 10] lies outside"),
            (box(5, 5, float("nan"), 5), "box-number", "error", "not finite"),
            (box(5, 5, 5, 5, category=4), "unknown-class", "error", "category_id 4 is not one of: 3 (cat), 7 (dog)"),
            (box(10, 21, 20, 30), "box-duplicate", "warning", "repeats the box of id 100 (IoU 0.94)"),
            (box(5, 5, 5, 5, image=99), "unknown-image", "error", "image_id 99"),
            (box(5, 5, 5), "annotation", "error", "found [5, 5, 5]"),
            (box(5, 5, 5, 5) | {"images": [*coco_content()["images"], {"id": 9, "file_name": "../a"}]}, "file-name",
             "error", "leaves the data folder"),
        ],
    )  # fmt: skip
    def test_each_kind(self, tmp_path, content, kind, severity, words):
        file = write_coco(tmp_path, content)
        report = check_dataset(file)
        kinds(report, (kind, 1), ("category-gap", 1))
        finding = only(report, kind)
        assert finding.severity == severity
        assert words in finding.message
        assert finding.file == file
        assert finding.id == (9 if kind == "file-name" else 7)
        assert finding.advice
        assert report.exit_code() == (2 if severity == "error" else 0)
        assert report.exit_code(strict=True) == (2 if severity == "error" else 1)

    def test_crowds_and_other_classes_are_no_duplicates(self, tmp_path):
        for content in (box(10, 20, 20, 30, category=7), box(10, 20, 20, 30, iscrowd=1)):
            assert "box-duplicate" not in check_dataset(write_coco(tmp_path, content)).totals

    def test_objects_inside_a_region_to_ignore(self, tmp_path):
        content = box(0, 15, 25, 60, category=7, iscrowd=1)  # over the right part of annotation 100's box
        finding = only(check_dataset(write_coco(tmp_path, content)), "box-ignored")
        assert (finding.id, finding.severity) == (100, "info")
        assert (
            finding.message == "a.png (100x80): cat xyxy [10, 20, 30, 50] lies by 75% in the region to ignore of id 7"
        )
        assert "box-ignored" not in check_dataset(write_coco(tmp_path, box(0, 15, 15, 60, iscrowd=1))).totals

    def test_the_line_is_named(self, tmp_path):
        text = voc_xml("a.png", voc_object("cat", (3, 4, 50, 60)) + voc_object("cat", (3, 4, 50, 61)))
        report = check_dataset(write_voc(tmp_path, {"Annotations/a.xml": text}))
        finding = only(report, "box-duplicate")
        assert (finding.file.name, finding.line) == ("a.xml", 5)
        assert "repeats the box of line 4" in finding.message

    def test_xywh_that_is_really_xyxy(self, tmp_path):
        content = coco_content()
        for annotation, bbox in zip(
            content["annotations"], ([50, 40, 90, 70], [9, 9, 30, 30], [60, 5, 99, 60]), strict=True
        ):
            annotation["bbox"] = bbox
        report = check_dataset(write_coco(tmp_path, content))
        assert "look like xyxy but are read as xywh: 2 of 3" in only(report, "box-format").message

    def test_xyxy_that_is_really_xywh(self, tmp_path):
        rows = "".join(f"a.png,cat,{50 + i},40,20,{10 + i}\n" for i in range(4))
        report = check_dataset(write_csv(tmp_path, "filename,class,xmin,ymin,xmax,ymax\n" + rows))
        assert "look like xywh but are read as xyxy: 4 of 4" in only(report, "box-format").message

    @pytest.mark.parametrize("write", [write_coco, write_csv])
    def test_pixels_that_are_really_fractions(self, tmp_path, write):
        content = coco_content()
        for annotation in content["annotations"]:
            annotation["bbox"] = [0.1, 0.2, 0.5, 0.8]
        text = "filename,class,xmin,ymin,xmax,ymax\n" + "a.png,cat,0.1,0.2,0.6,1.0\n" * 3
        report = check_dataset(write(tmp_path, content if write is write_coco else text))
        assert "look like fractions of the image" in only(report, "box-format").message

    @pytest.mark.parametrize("row", ["a.png,cat,50,40,20,10", "a.png,cat,50,40,0,0\n" * 4], ids=["one box", "no size"])
    def test_empty_boxes_that_need_not_be_xywh(self, tmp_path, row):
        report = check_dataset(write_csv(tmp_path, f"filename,class,xmin,ymin,xmax,ymax\n{row}\n"))
        assert "box-empty" in report.totals
        assert "box-format" not in report.totals

    def test_xywh_may_reach_over_the_border_as_far_as_xyxy_may(self, tmp_path):
        rows = "".join(f"a.png,cat,{60 + i},40,{40.5 - i},10\n" for i in range(4))
        report = check_dataset(write_csv(tmp_path, "filename,class,xmin,ymin,xmax,ymax\n" + rows))
        assert "box-format" in report.totals

    def test_many_problems_are_all_listed(self, tmp_path):
        lines = "0 .5 .5 .1\n" * 5 + "9 .5 .5 .1 .1\n" * 3
        report = check_dataset(write_yolo(tmp_path, {"a.txt": lines}))
        assert report.totals["annotation"] == 5
        assert report.totals["unknown-class"] == 3
        assert [finding.line for finding in report if finding.kind == "unknown-class"] == [6, 7, 8]


class TestFiles:
    def test_no_images(self, tmp_path):
        report = check_dataset(write_coco(tmp_path, coco_content(images=[], annotations=[])))
        assert report.totals == {"annotation-file": 1}
        assert report.exit_code() == 2

    def test_a_file_that_cannot_be_read(self, tmp_path):
        file = write_coco(tmp_path)
        file.write_text("{")
        report = check_dataset(file)
        assert report.totals == {"annotation-file": 1}
        assert report[0].line == 1
        assert report.exit_code() == 2
        assert report.statistics is None

    def test_one_broken_xml_does_not_hide_the_rest(self, tmp_path):
        report = check_dataset(write_voc(tmp_path, {"Annotations/a.xml": "<annotation>\n<b>"}))
        assert report.totals["annotation-file"] == 1
        assert only(report, "annotation-file").line == 2
        assert report.statistics.splits["train"].images == 2

    def test_nothing_to_check(self, tmp_path):
        with pytest.raises(DataError, match="no annotations recognised"):
            check_dataset(tmp_path)

    def test_labels_without_image(self, tmp_path):
        report = check_dataset(write_yolo(tmp_path, {"z.txt": "0 .5 .5 .1 .1\n"}))
        kinds(report, ("label-orphan", 1))
        assert only(report, "label-orphan").file.name == "z.txt"


class TestClasses:
    def test_empty_and_only_elsewhere(self, tmp_path):
        content = coco_content()
        content["categories"] = [*content["categories"], {"id": 8, "name": "cow"}]
        for split, category in (("train", 7), ("val", 3)):
            for annotation in content["annotations"]:
                annotation["category_id"] = category
            write_coco(tmp_path, content, split)
        messages = [finding.message for finding in check_dataset(tmp_path) if finding.kind == "class-empty"]
        assert messages == [
            "class 'cat' has no object in train (3 elsewhere)",
            "class 'cow' has no object in train (0 elsewhere)",
        ]

    def test_names_that_differ_in_case_or_spaces(self, tmp_path):
        categories = [{"id": 3, "name": "sea star"}, {"id": 7, "name": "SeaStar"}]
        finding = only(check_dataset(write_coco(tmp_path, coco_content(categories=categories))), "class-case")
        assert finding.message == "classes differ in case or spaces only: 'sea star', 'SeaStar'"
        assert finding.severity == "warning"

    def test_gaps(self, tmp_path):
        finding = only(check_dataset(write_coco(tmp_path)), "category-gap")
        assert finding.message == "2 category ids from 3 to 7 with gaps"
        assert finding.severity == "info"


class TestImages:
    @pytest.fixture
    def file(self, tmp_path):
        content = coco_content(categories=[{"id": 1, "name": "cat"}])
        for annotation in content["annotations"]:
            annotation["category_id"] = 1
        return write_coco(tmp_path, content)

    def a(self, file):
        return file.parents[1] / "images" / "a.png"

    def test_missing(self, file):
        self.a(file).unlink()
        kinds(check_dataset(file), ("image-missing", 1))

    def test_the_boxes_of_a_missing_image_of_unknown_size_are_not_judged(self, tmp_path):
        images = [{"id": image["id"], "file_name": image["file_name"]} for image in coco_content()["images"]]
        file = write_coco(tmp_path, coco_content(images=images))
        self.a(file).unlink()
        kinds(check_dataset(file), ("image-missing", 1), ("category-gap", 1))

    def test_not_an_image(self, file):
        self.a(file).write_text("hello")
        kinds(check_dataset(file), ("image-unreadable", 1))

    def test_truncated(self, file):
        noise = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
        Image.fromarray(noise).save(self.a(file))
        self.a(file).write_bytes(self.a(file).read_bytes()[:9000])
        report = check_dataset(file)
        kinds(report, ("image-unreadable", 1))
        assert only(report, "image-unreadable").file == self.a(file)

    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_truncated_jpeg(self, file, progressive):
        noise = np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8)
        Image.fromarray(noise).save(self.a(file), format="JPEG", progressive=progressive)
        kinds(check_dataset(file), *[])
        self.a(file).write_bytes(self.a(file).read_bytes()[:-400])
        assert only(check_dataset(file), "image-unreadable").file == self.a(file)

    def test_each_look_can_be_watched(self, file):
        seen = []
        check_dataset(file, watch=lambda looks, total: [seen.append(total) or one for one in looks])
        assert seen == [3, 3, 3]

    def test_decompression_bomb(self, file, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9000)
        Image.new("RGB", (200, 100)).save(self.a(file))
        report = check_dataset(file)
        assert "decompression bomb" in only(report, "image-unreadable").message

    def test_size(self, file):
        Image.new("RGB", (80, 100)).save(self.a(file))
        report = check_dataset(file)
        kinds(report, ("image-size", 1))
        assert f"is 80x100, annotated as 100x80 in {file}" in only(report, "image-size").message

    @pytest.mark.parametrize(
        ("size", "turn", "frame"),
        [((100, 80), 6, "as stored"), ((80, 100), 6, "as shown"), ((100, 80), 3, "as shown")],
    )
    def test_exif_rotation(self, file, size, turn, frame):
        exif = Image.Exif()
        exif[0x0112] = turn
        Image.new("RGB", size).save(self.a(file), exif=exif)
        report = check_dataset(file)
        kinds(report, ("image-rotated", 1))
        assert frame in only(report, "image-rotated").message

    def test_a_size_that_is_not_annotated_is_that_of_the_image_as_shown(self, tmp_path):
        """As loading has it: else boxes would be held against the wrong sides."""
        box = {"id": 1, "image_id": 10, "category_id": 3, "bbox": [0, 0, 70, 99]}
        images = [{"id": 10, "file_name": "a.png"}]
        file = write_coco(tmp_path, coco_content(images=images, annotations=[box]))
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (100, 80)).save(tmp_path / "images" / "a.png", exif=exif)
        assert check_dataset(file).severities["error"] == 0

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA"])
    def test_other_channels_are_handled_and_said(self, file, mode):
        Image.new(mode, (100, 80)).save(self.a(file))
        kinds(check_dataset(file), ("image-channels", 1))

    def test_cmyk(self, file):
        Image.new("CMYK", (100, 80)).save(self.a(file), format="JPEG")
        kinds(check_dataset(file), ("image-channels", 1))

    def test_16_bit(self, file):
        Image.fromarray(np.full((80, 100), 40000, np.uint16)).save(self.a(file))
        report = check_dataset(file)
        kinds(report, ("image-mode", 1))
        assert report.exit_code(strict=True) == 1

    def test_the_same_image_twice(self, file):
        shutil.copy(self.a(file), self.a(file).with_name("b.png"))
        report = check_dataset(file)
        kinds(report, ("image-duplicate", 1))
        assert f"the same image as {self.a(file)}" in only(report, "image-duplicate").message

    def test_the_same_image_in_two_splits(self, tmp_path):
        for split in ("train", "valid"):
            write_images(tmp_path / split, ("a.png",))
            content = coco_content(images=coco_content()["images"][:1], annotations=coco_content()["annotations"][:2])
            (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
        finding = only(check_dataset(tmp_path), "split-leak")
        assert finding.file == tmp_path / "valid" / "a.png"
        assert finding.message == f"in val: the same image as {tmp_path / 'train' / 'a.png'} in train"


class TestRealData:
    def test_bccd_has_the_defects_of_its_readme(self, shared):
        report = check_dataset(shared / "data" / "bccd" / "original")
        assert report.title == "found: Pascal VOC, 364 images, 3 classes, splits train/val/test"
        assert report.totals == {"box-empty": 2, "box-duplicate": 8}
        assert report.exit_code() == 0
        assert report.exit_code(strict=True) == 1
        found = {(f.kind, f.file.stem.removeprefix("BloodImage_")) for f in report}
        empty = {("box-empty", number) for number in ("00338", "00343")}
        double = {"00013", "00020", "00100", "00251", "00403", "00104", "00331", "00284"}
        assert found == empty | {("box-duplicate", number) for number in double}
        assert report.statistics.classes == {"Platelets": 361, "RBC": 4153, "WBC": 372}
        assert {name: round(share, 3) for name, share in report.statistics.sizes.items()} == {
            "small": 0.008,
            "medium": 0.312,
            "large": 0.68,
        }

    @pytest.mark.slow
    def test_what_is_checked_is_what_is_loaded(self, shared):
        path = shared / "data" / "bccd" / "original"
        assert check_dataset(path).statistics == open_dataset(path).statistics()

    @pytest.mark.slow
    def test_aquarium(self, shared):
        root = shared / "data" / "aquarium"
        assert check_dataset(root).totals == {"image-background": 1}
        assert check_dataset(root, format="yolo").totals == {"image-background": 1, "box-empty": 2}


def test_an_image_of_two_splits_is_described_once(tmp_path):
    for split in ("train", "val"):
        write_coco(tmp_path, split=split)
    for image in (tmp_path / "images").iterdir():
        Image.open(image).convert("L").save(image)
    assert check_dataset(tmp_path).totals["image-channels"] == 3
