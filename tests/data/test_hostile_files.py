"""Whatever stands in an annotation file, the answer is a data set or a DataError."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from boxwright.data import open_dataset
from boxwright.data.check import check_dataset
from boxwright.data.files import leaves_root
from boxwright.errors import DataError
from datasets import coco_content, voc_object, voc_xml, write_coco, write_csv, write_voc, write_yolo

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
many = settings(max_examples=30, deadline=None)


def survives(path):
    """Open and check, where only DataError may come out, and everything opened can be read."""
    with suppress(DataError):
        index = open_dataset(path, cache=False)
        for split in index.splits:
            for record in index.split(split):
                assert (record.boxes[:, 2:] > record.boxes[:, :2]).all()
                assert record.boxes.isfinite().all()
                assert record.path.is_relative_to(path if path.is_dir() else path.parents[1])
    with suppress(DataError):
        check_dataset(path)


@many
@given(data=st.data())
def test_coco_values(data):
    """Put a strange value anywhere in a good file."""
    content = coco_content()
    place = content
    while isinstance(place, dict | list) and place:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 4)) == 0:
            place[key] = data.draw(values)
            break
        place = place[key]
    with tempfile.TemporaryDirectory() as folder:
        survives(write_coco(Path(folder), json.loads(json.dumps(content))))


@many
@given(text=st.text(max_size=30), data=st.data())
def test_text_anywhere(text, data):
    """Cut text into a good file of each format."""
    write = data.draw(st.sampled_from([write_coco, write_voc, write_yolo, write_csv]))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder))
        files = [f for f in Path(folder).rglob("*") if f.suffix in (".json", ".xml", ".txt", ".csv")]
        file = data.draw(st.sampled_from(sorted(files)))
        good = file.read_text()
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(good))] * 2)))
        file.write_text(good[:start] + text + good[end:], encoding="utf-8", errors="surrogatepass")
        survives(path)


@many
@given(data=st.binary(max_size=200), data_name=st.sampled_from(["a.json", "a.xml", "data.yaml", "a.csv"]))
@example(data=b"\r\x00", data_name="a.csv")
def test_any_bytes(data, data_name):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / data_name).write_bytes(data)
        survives(Path(folder) / data_name)
        survives(Path(folder))


@many
@given(
    numbers=st.lists(
        st.sampled_from(["nan", "inf", "-1e308", "1e400", "0", "9" * 400, "0x1", "1_0"]), min_size=4, max_size=4
    )
)
def test_numbers(numbers):
    with tempfile.TemporaryDirectory() as folder:
        survives(write_voc(Path(folder), {"Annotations/a.xml": voc_xml("a.png", voc_object("cat", tuple(numbers)))}))
    with tempfile.TemporaryDirectory() as folder:
        survives(write_yolo(Path(folder), {"a.txt": " ".join(["0", *numbers])}))
    with tempfile.TemporaryDirectory() as folder:
        row = f"a.png,cat,{','.join(numbers)}\n"
        survives(write_csv(Path(folder), f"filename,class,xmin,ymin,xmax,ymax\n{row}"))


def test_deeply_nested_json(tmp_path):
    file = write_coco(tmp_path)
    file.write_text('{"images": ' + "[" * 100_000)
    with pytest.raises(DataError, match=r"instances_train.json.*JSON"):
        open_dataset(file)


def test_billion_laughs(tmp_path):
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    text = f"<!DOCTYPE x [{entities}]><annotation><filename>&a9;</filename></annotation>"
    with pytest.raises(DataError, match=r"a.xml.*XML that is not accepted"):
        open_dataset(write_voc(tmp_path, {"Annotations/a.xml": text}))


def test_external_entity(tmp_path):
    (tmp_path / "secret").write_text("secret")
    text = (
        f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{tmp_path}/secret">]><annotation><filename>&e;</filename></annotation>'
    )
    with pytest.raises(DataError, match="XML that is not accepted"):
        open_dataset(write_voc(tmp_path / "set", {"Annotations/a.xml": text}))


def test_yaml_tags_build_nothing(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(DataError, match=r"data.yaml: train must be one folder or list file, found \[\]"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "name", ["", " ", "/a", "../a", "a/../b", "..", "C:\\a", "\\\\host\\a", "C:a", "a\\..\\b", "a\0"]
)
def test_names_that_leave_the_folder(name):
    assert leaves_root(name)


@pytest.mark.parametrize("name", ["a.jpg", "train/a.jpg", "..a.jpg", "a..b.jpg", "a b.jpg", "ä.jpg"])
def test_names_that_stay(name):
    assert not leaves_root(name)
