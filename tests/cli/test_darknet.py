"""darknet's files in and out again through the command line."""

import pytest
import torch
from typer.testing import CliRunner

import boxwright
from boxwright.cli.app import app
from boxwright.models import Darknet
from boxwright.models.darknet import WeightsHeader, layout, parse_cfg, write_weights


def run(*arguments):
    """Return exit code and everything printed."""
    result = CliRunner().invoke(app, ["darknet", *map(str, arguments)])
    return result.exit_code, result.output + result.stderr


def written(tmp_path, name, header):
    text = layout(name, classes=2, size=64, width=0.05, depth=0.1)
    torch.manual_seed(0)
    write_weights(Darknet(parse_cfg(text)), tmp_path / "a.weights", header)
    (tmp_path / "a.cfg").write_text(text)
    (tmp_path / "a.names").write_text("cell\nplatelet\n")
    return tmp_path


@pytest.fixture
def files(tmp_path):
    return written(tmp_path, "yolov2", WeightsHeader(seen=4321))


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("yolov2", WeightsHeader(0, 1, 0, 77)),
        ("yolov2-tiny", WeightsHeader(0, 2, 5, 1 << 40)),
        ("yolov3", WeightsHeader(0, 2, 5, 32013312)),
        ("yolov3-tiny", WeightsHeader(1, 0, 0, 0)),
    ],
)
def test_what_is_read_and_written_again_is_the_same(tmp_path, name, header):
    files = written(tmp_path, name, header)
    names = ["--names", files / "a.names"]
    said = run("read", files / "a.cfg", files / "a.weights", *names)
    assert said == (0, f"written: {files / 'a.safetensors'}\n")
    assert boxwright.load(files / "a.safetensors").class_names == ("cell", "platelet")
    said = run("write", files / "a.safetensors", "--output", files / "b")
    assert said == (0, "".join(f"written: {files / 'b'}.{suffix}\n" for suffix in ("cfg", "weights", "names")))
    for suffix in ("cfg", "weights", "names"):
        assert (files / f"b.{suffix}").read_bytes() == (files / f"a.{suffix}").read_bytes(), suffix


def test_problems_are_one_sentence(files, run_folder):
    (files / "one.names").write_text("cell\n")
    (files / "empty.names").write_text("\n \n")
    (files / "twice.names").write_text("cell\ncell\n")
    header = WeightsHeader(seen=(1 << 64) - 1).pack()
    (files / "full.weights").write_bytes(header + (files / "a.weights").read_bytes()[len(header) :])
    network = [files / "a.cfg", files / "a.weights", "--names"]
    before = {path: path.read_bytes() for path in files.iterdir()}
    for arguments, words in (
        (("read", *network, files / "one.names"), "[region] detects 2 classes, but there are 1: cell"),
        (("read", *network, files / "no.names"), "cannot read the class names in"),
        (("read", *network, files / "empty.names"), "holds no class name; it should have one per line"),
        (("read", *network, files / "twice.names"), "lists 'cell' twice; give every class a name of its own"),
        (("read", files / "a.cfg", ".", "--names", files / "a.names"), "cannot read the weight file .: Is a directory"),
        (("read", "retinanet", *network[1:], files / "a.names"), "retinanet is a retinanet, not a network of darknet"),
        *(
            (("read", *network, files / "a.names", "--output", taken), "is one of the files to read: choose another")
            for taken in network[:2]
        ),
        (
            ("read", files / "a.cfg", files / "full.weights", "--names", files / "a.names"),
            "trained on 18446744073709551615 images; is it a .weights file?",
        ),
        (("write", run_folder, "--output", files / "c"), "is a retinanet-tiny; only networks of darknet's layers"),
    ):
        code, printed = run(*arguments)
        assert code == 2
        assert words in printed
    assert {path: path.read_bytes() for path in files.iterdir()} == before
