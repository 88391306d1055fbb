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


@pytest.fixture
def files(tmp_path):
    text = layout("yolov2", classes=2, size=64, width=0.05)
    torch.manual_seed(0)
    write_weights(Darknet(parse_cfg(text)), tmp_path / "a.weights", WeightsHeader(seen=4321))
    (tmp_path / "a.cfg").write_text(text)
    (tmp_path / "a.names").write_text("cell\nplatelet\n")
    return tmp_path


def test_what_is_read_and_written_again_is_the_same(files):
    names = ["--names", files / "a.names"]
    assert run("read", files / "a.cfg", files / "a.weights", *names)[0] == 0
    assert boxwright.load(files / "a.safetensors").class_names == ("cell", "platelet")
    assert run("write", files / "a.safetensors", "--output", files / "b")[0] == 0
    for suffix in ("cfg", "weights", "names"):
        assert (files / f"b.{suffix}").read_bytes() == (files / f"a.{suffix}").read_bytes(), suffix


def test_problems_are_one_sentence(files, run_folder):
    (files / "one.names").write_text("cell\n")
    network = [files / "a.cfg", files / "a.weights", "--names"]
    for arguments, words in (
        (("read", *network, files / "one.names"), "[region] detects 2 classes, but there are 1: cell"),
        (("read", *network, files / "no.names"), "cannot read the class names in"),
        (("write", run_folder, "--output", files / "c"), "is a retinanet-tiny; only networks of darknet's layers"),
    ):
        code, printed = run(*arguments)
        assert code == 2
        assert words in printed
    assert not (files / "c.cfg").exists()
