import gc
import json
import os
import pickle
import random
import re
import shutil
from functools import partial

import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from boxwright.data import cache, open_dataset
from boxwright.data.readers import coco
from boxwright.errors import DataError
from datasets import coco_content, write_coco, write_csv, write_images, write_voc, write_yolo

VOC_LISTS = {"ImageSets/Main/train.txt": "a\nb\n", "ImageSets/Main/val.txt": "c\n"}


@pytest.fixture
def reads(monkeypatch):
    """Count how often annotations are parsed."""
    calls = []
    read = coco.read
    monkeypatch.setattr(coco, "read", lambda request: calls.append(request) or read(request))
    return calls


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BOXWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_same(one, two):
    assert (one.class_names, one.category_ids, one.splits, one.notes) == (
        two.class_names,
        two.category_ids,
        two.splits,
        two.notes,
    )
    for split in one.splits:
        for a, b in zip(one.split(split), two.split(split), strict=True):
            assert (a.path, a.image_id, a.width, a.height) == (b.path, b.image_id, b.width, b.height)
            for name in ("boxes", "labels", "crowd", "area"):
                assert torch.equal(getattr(a, name), getattr(b, name))


class TestRecords:
    def test_a_record(self, tmp_path):
        file = write_coco(tmp_path)
        records = open_dataset(file, splits={"val": str(file)}).split("val")
        record = records[0]
        assert record.path == tmp_path / "images" / "a.png"
        assert (record.image_id, record.width, record.height) == (10, 100, 80)
        assert record.boxes.tolist() == [[10, 20, 30, 50], [5, 5, 99, 79]]
        assert record.boxes.dtype == record.area.dtype == torch.float32
        assert record.labels.dtype == torch.int64
        assert record.crowd.dtype == torch.bool
        assert record.area.tolist() == [600, 6956]
        assert records[2].boxes.shape == (0, 4)

    def test_is_a_sequence(self, tmp_path):
        file = write_coco(tmp_path)
        records = open_dataset(file, splits={"val": str(file)}).split("val")
        assert [r.image_id for r in records] == [r.image_id for r in records[:]] == [10, 11, 12]
        assert records[-1].image_id == 12
        assert records.name(0) == "a.png"
        for part in map(
            open_dataset(file).split, ("train", "val")
        ):  # a made validation split, somewhere inside the file
            assert [part.name(i) for i in range(len(part))] == [record.path.name for record in part]
        with pytest.raises(IndexError):
            records[3]

    def test_a_record_may_be_changed_without_harm(self, tmp_path):
        records = open_dataset(write_coco(tmp_path)).split("train")
        before = records[0].boxes.clone()
        records[0].boxes.add_(1)
        assert torch.equal(records[0].boxes, before)

    def test_unknown_split(self, tmp_path):
        with pytest.raises(DataError, match="no split 'test' in this data set, which has: train, val"):
            open_dataset(write_coco(tmp_path)).split("test")


class _Lengths(Dataset):
    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def __getitem__(self, i):
        return len(self.records[i].labels)


class TestCache:
    def test_second_opening_does_not_parse(self, tmp_path, reads, cache_folder):
        file = write_coco(tmp_path)
        first, second = open_dataset(file), open_dataset(file)
        assert len(reads) == 1
        assert_same(first, second)
        assert gc.isenabled()  # which parsing pauses

    def test_changes_are_seen(self, tmp_path, reads, cache_folder):
        file = write_coco(tmp_path)
        open_dataset(file)
        open_dataset(file, seed=1)
        open_dataset(file, classes=["dog", "cat"])
        assert len(reads) == 3
        file.write_text(json.dumps(coco_content(annotations=[])))
        assert open_dataset(file).class_counts("train").tolist() == [0, 0]
        assert len(reads) == 4

    @pytest.mark.parametrize(
        ("write", "file", "old", "new"),
        [
            (write_coco, "annotations/instances_train.json", '"category_id": 7', '"category_id": 3'),
            (write_voc, "Annotations/b.xml", "dog", "cat"),
            (partial(write_voc, files=VOC_LISTS), "ImageSets/Main/train.txt", "b\n", ""),
            (write_yolo, "labels/b.txt", "1 ", "0 "),
            (write_csv, "train.csv", "3,dog,b.png", "3,cat,b.png"),
        ],
    )
    def test_changes_are_seen_in_every_format(self, tmp_path, cache_folder, write, file, old, new):
        write(root := tmp_path / "set")
        open_dataset(root)
        text = (root / file).read_text()
        (root / file).write_text(text.replace(old, new, 1 if old == "1 " else -1))
        os.utime(root / file, ns=(1, 1))  # a clock too coarse to tell is not what is tested
        assert (root / file).read_text() != text
        assert_same(open_dataset(root), open_dataset(root, cache=False))

    def test_images_that_are_replaced_are_measured_again(self, tmp_path, cache_folder):
        nameless = [{"id": 10 + i, "file_name": name} for i, name in enumerate(("a.png", "b.png", "c.png"))]
        write_coco(tmp_path / "coco", coco_content(images=nameless))
        write_csv(tmp_path / "csv")
        write_voc(tmp_path / "voc")
        for file in (tmp_path / "voc" / "Annotations").iterdir():
            file.write_text(re.sub("<size>.*</size>", "", file.read_text()))
        for root, folder in (("coco", "images"), ("csv", "images"), ("voc", "JPEGImages")):
            root = tmp_path / root
            open_dataset(root)
            old = (root / folder / "a.png").stat()
            write_images(root / folder, ("a.png",), (200, 160))
            record = next(r for s in ("train", "val") for r in open_dataset(root).split(s) if r.path.name == "a.png")
            assert (record.width, record.height) == (200, 160)
            write_images(root / folder, ("a.png",), (100, 80))
            os.utime(root / folder / "a.png", ns=(old.st_atime_ns, old.st_mtime_ns + 1))  # of the old size in bytes
            record = next(r for s in ("train", "val") for r in open_dataset(root).split(s) if r.path.name == "a.png")
            assert (record.width, record.height) == (100, 80)

    def test_an_index_in_use_whose_images_are_replaced_is_not_mixed_with_the_new_one(self, tmp_path, cache_folder):
        file = write_csv(tmp_path)
        old = pickle.loads(pickle.dumps(open_dataset(file)))
        write_images(tmp_path / "images", ("a.png",), (200, 160))
        open_dataset(file)
        with pytest.raises(DataError, match="the data set changed while it was in use"):
            old.split("train")[0]

    def test_images_of_a_known_size_may_be_touched(self, tmp_path, reads, cache_folder):
        file = write_coco(tmp_path)
        open_dataset(file)
        os.utime(tmp_path / "images" / "a.png", ns=(1, 1))
        open_dataset(file)
        assert len(reads) == 1

    def test_a_touched_file_is_read_again(self, tmp_path, reads, cache_folder):
        file = write_coco(tmp_path)
        open_dataset(file)
        os.utime(file, ns=(1, 1))
        open_dataset(file)
        assert len(reads) == 2

    def test_another_reader_version_is_read_again(self, tmp_path, reads, cache_folder, monkeypatch):
        file = write_coco(tmp_path)
        open_dataset(file)
        monkeypatch.setattr(coco, "VERSION", coco.VERSION + 1)
        open_dataset(file)
        assert len(reads) == 2

    def test_new_images_and_labels_are_seen(self, tmp_path, cache_folder):
        root = write_yolo(tmp_path)
        assert len(open_dataset(root)) == 3
        write_images(root / "images", ("d.png",))
        assert len(open_dataset(root)) == 4
        (root / "labels" / "d.txt").write_text("0 .5 .5 .1 .1\n")
        index = open_dataset(root)
        assert sum(int(index.class_counts(split).sum()) for split in index.splits) == 4

    def test_broken_files_are_rebuilt(self, tmp_path, reads, cache_folder):
        file = write_coco(tmp_path)
        good = open_dataset(file, cache=False)  # not mapped to the file that is damaged here
        open_dataset(file)
        (stored,) = cache_folder.rglob("*.arrow")
        data = stored.read_bytes()
        middle = data.index(torch.tensor([[10.0, 20.0, 30.0, 50.0]]).numpy().tobytes())
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        others = [b"", b"not Arrow", data[: len(data) // 2], data[:-1], flipped]
        for count, damaged in enumerate(others, start=3):
            stored.write_bytes(damaged)
            assert_same(open_dataset(file), good)
            assert len(reads) == count
        assert stored.read_bytes() == data

    def test_random_damage_is_never_believed(self, tmp_path, cache_folder):
        file = write_coco(tmp_path)
        good = open_dataset(file, cache=False)  # not mapped to the file that is damaged here
        open_dataset(file)
        (stored,) = cache_folder.rglob("*.arrow")
        data = stored.read_bytes()
        draw = random.Random(0)
        for _ in range(40):
            damaged = bytearray(data)
            for _ in range(draw.randint(1, 8)):
                damaged[draw.randrange(len(data))] = draw.randrange(256)
            stored.write_bytes(damaged)
            assert_same(open_dataset(file), good)

    def test_foreign_arrow_files_are_rebuilt(self, tmp_path, reads, cache_folder):
        file = write_coco(tmp_path)
        good = open_dataset(file, cache=False)  # not mapped to the file that is damaged here
        open_dataset(file)
        (stored,) = cache_folder.rglob("*.arrow")
        table = pa.table({"a": [1, 2]})
        with pa.ipc.new_file(str(stored), table.schema) as writer:
            writer.write_table(table)
        assert_same(open_dataset(file), good)
        assert len(reads) == 3

    def test_no_cache_asked_for(self, tmp_path, reads, cache_folder):
        file = write_coco(tmp_path)
        one, two = open_dataset(file, cache=False), open_dataset(file, cache=False)
        assert len(reads) == 2
        assert not cache_folder.exists()
        assert_same(one, pickle.loads(pickle.dumps(two)))

    def test_a_cache_that_cannot_be_written(self, tmp_path, cache_folder):
        cache_folder.write_text("a file where the folder should be")
        index = open_dataset(write_coco(tmp_path))
        assert "no index cache" in index.notes[-1]
        assert len(index.split("train")[0].labels) >= 0

    def test_no_temporary_files_stay(self, tmp_path, cache_folder):
        open_dataset(write_coco(tmp_path))
        assert [path.suffix for path in (cache_folder / "index").iterdir()] == [".arrow"]

    def test_places(self, monkeypatch, tmp_path):
        monkeypatch.delenv("BOXWRIGHT_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache.cache_file("x").parent == tmp_path / "boxwright" / "index"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache.cache_file("x").parent == tmp_path / ".cache" / "boxwright" / "index"


class TestWorkers:
    def test_pickle_is_small_and_reopens(self, tmp_path):
        index = open_dataset(write_coco(tmp_path))
        index.split("train")[0]
        data = pickle.dumps(index.split("train"))
        assert len(data) < 2000
        assert_same(pickle.loads(pickle.dumps(index)), index)

    @pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
    def test_loader_workers(self, tmp_path, start):
        index = open_dataset(write_coco(tmp_path), val_fraction=0.3)
        dataset = _Lengths(index.split("train"))
        loader = DataLoader(dataset, num_workers=2, multiprocessing_context=start)
        assert torch.cat(list(loader)).tolist() == [dataset[i] for i in range(len(dataset))]

    def test_a_file_rebuilt_from_other_annotations_is_noticed(self, tmp_path):
        file = write_coco(tmp_path)
        old = pickle.loads(pickle.dumps(open_dataset(file)))
        file.write_text(json.dumps(coco_content(annotations=[])))
        open_dataset(file)
        with pytest.raises(DataError, match="the data set changed while it was in use"):
            old.split("train")[0]


class TestSplits:
    def test_made_validation_is_reproducible_and_depends_on_the_seed(self, tmp_path):
        names = [f"{i}.png" for i in range(50)]
        images = [{"id": i, "file_name": name, "width": 100, "height": 80} for i, name in enumerate(names)]
        file = write_coco(tmp_path, coco_content(images=images, annotations=[]))
        chosen = [{r.path.name for r in open_dataset(file, cache=False, seed=seed).split("val")} for seed in (0, 0, 1)]
        assert len(chosen[0]) == 10
        assert chosen[0] == chosen[1] != chosen[2]
        file.write_text(json.dumps(coco_content(images=images[::-1], annotations=[])))
        assert {r.path.name for r in open_dataset(file).split("val")} == chosen[0]
        assert "no val split: 10 of 50 train images became val, by file name and seed 0" in open_dataset(file).notes

    def test_what_roboflow_made_of_one_photograph_is_in_one_split(self, tmp_path):
        names = [f"{photo}_jpg.rf.{copy}.jpg" for photo in "abcdefghij" for copy in range(3)]
        images = [{"id": i, "file_name": name, "width": 100, "height": 80} for i, name in enumerate(names)]
        index = open_dataset(write_coco(tmp_path, coco_content(images=images, annotations=[])))
        train, val = ({r.path.name.partition("_")[0] for r in index.split(split)} for split in ("train", "val"))
        assert len(val) == 2
        assert not train & val

    def test_given_splits(self, tmp_path):
        for name in ("one", "two"):
            write_coco(tmp_path, split=name)
        assert open_dataset(tmp_path).splits == ("one", "two")
        index = open_dataset(tmp_path, splits={"train": "one", "val": "annotations/instances_two.json"})
        assert index.splits == ("train", "val")
        assert len(index) == 6
        with pytest.raises(DataError, match=r"split val=three: no such path under .*, and no such split \(one, two\)"):
            open_dataset(tmp_path, splits={"val": "three"})
        with pytest.raises(DataError, match="a split is named by letters"):
            open_dataset(tmp_path, splits={"../val": "one"})

    def test_a_split_given_alone_leaves_the_others(self, tmp_path):
        for name in ("train", "test", "held"):
            write_coco(tmp_path / name, split=name)
            (tmp_path / name / "annotations" / f"instances_{name}.json").rename(tmp_path / name / f"{name}.json")
        index = open_dataset(tmp_path, splits={"val": "held/held.json"})
        assert index.splits == ("train", "val", "test")
        assert len(index) == 9

    def test_an_image_of_a_split_given_is_in_no_other(self, tmp_path):
        write_yolo(tmp_path)
        (tmp_path / "val.txt").write_text("images/b.png\n")
        index = open_dataset(tmp_path, splits={"val": "val.txt"})
        assert {split: [record.path.name for record in index.split(split)] for split in index.splits} == {
            "train": ["a.png", "c.png"],
            "val": ["b.png"],
        }
        assert [len(record.boxes) for record in index.split("train")] == [2, 0]
        assert index.split("val")[0].boxes.shape == (1, 4)
        assert "1 image of train left out, being in val as well" in index.notes

    def test_what_is_measured_on_images_of_train_is_said_to_be_too_good(self, tmp_path):
        write_yolo(tmp_path)
        (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [cat, dog]\n")
        assert "3 images of val in train as well: what is measured there is too good" in open_dataset(tmp_path).notes

    def test_a_lone_file_beside_a_given_split_is_train(self, tmp_path):
        file = write_coco(tmp_path, split="cells")
        write_coco(tmp_path / "other", split="held")
        index = open_dataset(file, splits={"val": "../other/annotations/instances_held.json"})
        assert index.splits == ("train", "val")
        assert index.notes[0] == "the only other split, cells, is taken as train"

    @pytest.mark.parametrize("write", [write_coco, write_voc, write_yolo, write_csv])
    def test_two_places_of_one_split_are_kept_apart(self, tmp_path, write):
        """Otherwise the last would silently replace the first."""
        for year in ("train2014", "train2017"):
            made = write(tmp_path / "made")
            if made.is_file():
                made.rename(tmp_path / f"{year}{made.suffix}")
                (tmp_path / "images").exists() or (tmp_path / "made" / "images").rename(tmp_path / "images")
                shutil.rmtree(tmp_path / "made")
            elif write is write_voc:
                (made / "Annotations").rename(tmp_path / year)
                (tmp_path / "JPEGImages").exists() or (made / "JPEGImages").rename(tmp_path / "JPEGImages")
                shutil.rmtree(made)
            else:
                (made / "classes.txt").replace(tmp_path / "classes.txt")
                made.rename(tmp_path / year)
        index = open_dataset(tmp_path)
        assert index.splits == ("train2014", "train2017")
        with pytest.raises(DataError, match="no split 'train' in this data set, which has: train2014, train2017"):
            index.split("train")
        assert open_dataset(tmp_path, splits={"train": "train2017"}).splits == ("train", "val")

    def test_a_single_split_of_another_name_is_train(self, tmp_path):
        index = open_dataset(write_coco(tmp_path, split="cells"))
        assert index.splits == ("train", "val")
        assert index.notes[0] == "the only split, cells, is taken as train"

    def test_a_single_split_that_was_named_stays(self, tmp_path):
        index = open_dataset(write_coco(tmp_path, split="cells"), splits={"held": "cells"})
        assert index.splits == ("held",)
        assert len(index.split("held")) == 3
        assert not index.notes

    def test_a_lone_val_stays(self, tmp_path):
        assert open_dataset(write_coco(tmp_path, split="val")).splits == ("val",)

    def test_val_fraction(self, tmp_path):
        with pytest.raises(DataError, match="val_fraction must lie between 0 and 1, found 1"):
            open_dataset(write_coco(tmp_path), val_fraction=1)
        sizes = [[len(open_dataset(tmp_path, val_fraction=f).split(s)) for s in ("train", "val")] for f in (0.01, 0.99)]
        assert sizes == [[2, 1], [1, 2]]
        alone = open_dataset(write_coco(tmp_path, coco_content(images=coco_content()["images"][:1], annotations=[])))
        assert (alone.splits, alone.notes) == (("train",), ())


def with_box(bbox):
    content = coco_content()
    content["annotations"][0]["bbox"] = bbox
    return content


class TestRules:
    """Images are 100x80."""

    @pytest.mark.parametrize("bbox", [[5, 5, 0, 4], [5, 5, 4, 0], [5, 5, -3, 4], [100, 5, 0.9, 4]])
    def test_boxes_without_area_are_dropped_and_counted(self, tmp_path, bbox):
        index = open_dataset(write_coco(tmp_path, with_box(bbox)))
        assert sum(int(index.class_counts(s).sum()) for s in index.splits) == 2
        assert any(note.startswith("1 box without area dropped, the first: ") for note in index.notes)
        assert any("instances_train.json, id 100" in note for note in index.notes)

    def test_slight_overshoot_is_clipped_and_counted(self, tmp_path):
        index = open_dataset(write_coco(tmp_path, with_box([-1, -0.8, 102, 81.6])))
        boxes = torch.cat([r.boxes for s in index.splits for r in index.split(s) if r.image_id == 10])
        assert boxes[0].tolist() == [0, 0, 100, 80]
        assert any(note.startswith("1 box over the border clipped") for note in index.notes)

    def test_rounding_is_not_worth_a_note(self, tmp_path):
        index = open_dataset(write_coco(tmp_path, with_box([0, 0, 100.000001, 80])))
        assert all("clipped" not in note for note in index.notes)

    @pytest.mark.parametrize("bbox", [[-1.1, 0, 50, 50], [60, 0, 41.1, 50], [0, 40, 50, 40.9], [0, -0.9, 50, 50]])
    def test_more_is_an_error(self, tmp_path, bbox):
        with pytest.raises(DataError, match=r"instances_train.json, id 100: a.png \(100x80\): cat xyxy .* outside"):
            open_dataset(write_coco(tmp_path, with_box(bbox)))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_numbers_must_be_finite(self, tmp_path, value):
        with pytest.raises(DataError, match=r"id 100: .* is not finite"):
            open_dataset(write_coco(tmp_path, with_box([1, 2, value, 4])))

    def test_xyxy_in_a_coco_file_is_named(self, tmp_path):
        content = coco_content()
        content["annotations"] = [
            {"id": i, "image_id": 10, "category_id": 3, "bbox": box}
            for i, box in enumerate([[50, 40, 90, 70], [10, 10, 30, 30], [60, 5, 99, 60]])
        ]
        with pytest.raises(DataError, match="the boxes of train look like xyxy but are read as xywh: 2 of 3 cannot be"):
            open_dataset(write_coco(tmp_path, content))

    def test_all_errors_are_counted(self, tmp_path):
        content = with_box([60, 0, 50, 50])
        content["annotations"][1]["bbox"] = [2, 0, -150, 50]
        content["annotations"][2]["bbox"] = [2, 0, 150, 50]
        with pytest.raises(DataError, match=r"\(1 more error; see `boxwright data check`\)"):
            open_dataset(write_coco(tmp_path, content))

    def test_images_without_annotations_are_records(self, tmp_path):
        index = open_dataset(write_voc(tmp_path))
        assert sorted(len(r.labels) for s in index.splits for r in index.split(s)) == [0, 1, 2]


class TestImages:
    def test_images_that_come_later_are_found(self, tmp_path, cache_folder):
        file = write_coco(tmp_path)
        (tmp_path / "images").rename(tmp_path / "gone")
        index = open_dataset(file)
        assert any(note.startswith("images of train not found, such as ") for note in index.notes)
        (tmp_path / "gone").rename(tmp_path / "train")
        index = open_dataset(file)
        assert index.split("train")[0].path.is_file()
        assert all("not found" not in note for note in index.notes)

    def test_labels_without_image_are_counted(self, tmp_path):
        index = open_dataset(write_yolo(tmp_path, {"z.txt": "0 .5 .5 .1 .1\n"}))
        assert any(note.startswith("1 label file without an image left out") for note in index.notes)
