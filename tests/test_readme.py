"""What the README shows works as it is written."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_python():
    images = [torch.rand(3, 48, 64) for _ in range(2)]
    targets = [
        {"boxes": torch.tensor([[4.0, 4.0, 30.0, 40.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    names = {"loader": [(images, targets)]}
    for block in blocks("python"):
        exec(block, names)
    assert names["losses"].keys() == {"classification", "box"}
    assert [detection.keys() for detection in names["detections"]] == [{"boxes", "scores", "labels"}] * 2


def commands():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    found = (re.search(r"boxwright ((?:[a-z]+ ?)+)", line) for line in lines if "pip install" not in line)
    return sorted({match[1].strip() for match in found if match})


@pytest.mark.parametrize("command", commands())
def test_commands_exist(command):
    from typer.testing import CliRunner

    from boxwright.cli.app import app

    result = CliRunner().invoke(app, [*command.split()[:2], "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output
