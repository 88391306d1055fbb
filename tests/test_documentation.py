"""What the documentation shows works as it is written: its commands are understood, its code runs."""

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from boxwright.cli.app import app
from boxwright.data.synth import write_synthetic
from boxwright.engine.checkpoint import save_weights
from boxwright.engine.run import Run
from boxwright.models import Darknet
from boxwright.models.darknet import WeightsHeader, layout, parse_cfg, write_weights
from boxwright.recipes import build_detector, dump_recipe, load_recipe
from boxwright.study.inspection.assigner_choices import choices
from pages import DOCS, blocks, run_page

PAGES = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
ELSEWHERE = {  # pages whose code is run by tests that look at what comes out
    *("README.md", "losses.md", "ranking.md", "assigners.md", "add-a-loss.md", "add-an-assigner.md", "coming-from.md"),
    "add-a-criterion.md",
}


def commands(page: Path) -> Iterator[list[str]]:
    """Words of every line of a page's shell blocks that calls boxwright, without comments and variables before it."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.replace("…", "--data PATH --recipes retinanet-tiny"), comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words and words[0] == "boxwright":
                yield words[1:]


def understood(words: list[str]) -> dict[str, Any]:
    """Return the arguments that the command line makes of a command, which is not run; a wrong one is an error."""
    command, context = typer.main.get_command(app), None
    for word in words:
        if not hasattr(command, "commands") or word.startswith("-"):
            break
        context = command.make_context("boxwright", [], parent=context, resilient_parsing=True)
        command, words = command.commands[word], words[1:]
    return command.make_context("boxwright", list(words), parent=context).params


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module `mine` of what three of the pages add."""
    pages = ("add-a-loss.md", "add-an-assigner.md", "add-a-criterion.md")
    code = [blocks(DOCS / page, "python")[0] for page in pages]
    (tmp_path / "mine.py").write_text("\n".join(code))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(commands(page))], ids=lambda page: page.relative_to(DOCS.parent).as_posix()
)
def test_commands_are_understood(page: Path, folder: Path) -> None:
    for block in blocks(page, "bash"):
        for line in block.splitlines():
            if line.startswith("printf"):  # writes a recipe
                subprocess.run(["bash", "-c", line], check=True)
    for words in commands(page):
        arguments = understood(words)
        names = arguments.get("recipes") or arguments.get("recipe") or arguments.get("name") or ""
        for name in str(names).split(","):
            if name and (Path(name).exists() or "." not in name):
                recipe = load_recipe(name, arguments.get("set") or arguments.get("overrides") or ())
                if asked := arguments.get("assigner"):
                    choices(recipe, asked.split(","), stages=("trained",))


@pytest.mark.slow
def test_the_commands_of_the_readme_do_what_they_say(folder: Path) -> None:
    write_synthetic(Path("scenes"), train=8, val=4, size=64)
    places = {"PATH": "scenes", "runs/NAME": "runs/retinanet-tiny", "photos/": "scenes/images/val"}
    short = [f"--set={key}" for key in ("data.size=64", "data.workers=0", "data.batch_size=4", "schedule.epochs=1")]
    short += [f"--set={key}" for key in ("schedule.warmup_steps=1", "data.augment.scale_jitter=null")]
    for words in list(commands(DOCS.parent / "README.md")):
        words = [places.get(word, word) for word in words] + short * (words[0] in ("train", "compare"))
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (words, result.output)
    for made in ("runs/retinanet-tiny/report.html", "drawn/predictions.json", "comparison/compare.html"):
        assert Path(made).stat().st_size > 0


def test_every_page_with_code_is_run() -> None:
    with_code = {page.relative_to(DOCS).as_posix() for page in PAGES[2:] if any(blocks(page, "python"))}
    assert with_code | {"README.md"} == ELSEWHERE | NEEDS.keys()


def a_detector() -> dict[str, Any]:
    detector = build_detector(load_recipe("retinanet-tiny"), ["cat", "dog"])
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 30.0, 40.0]]), "labels": torch.tensor([1])}]
    return {"detector": detector, "images": [torch.rand(3, 48, 64)], "targets": targets}


def a_run() -> dict[str, Any]:
    recipe = load_recipe("retinanet-tiny", ["data.size=64", "detector.inference.score_threshold=0"])
    run = Run.create(Path("runs/retinanet-tiny"), recipe, ["cat", "dog"], {"path": "."})
    state = build_detector(recipe, ["cat", "dog"]).state_dict()
    save_weights(run.weights_file("last"), state, {"recipe": dump_recipe(recipe), "classes": ["cat", "dog"]})
    Image.new("RGB", (60, 40)).save("photo.jpg")
    return {}


def photos() -> dict[str, Any]:
    write_synthetic(Path("photos"), train=8, val=2, size=64)
    return {}


def a_network_of_darknet() -> dict[str, Any]:
    text = layout("yolov3", classes=2, size=64, width=0.05, depth=0.1)
    Path("yolov3.cfg").write_text(text)
    write_weights(Darknet(parse_cfg(text)), Path("yolov3.weights"), WeightsHeader(seen=1))
    return {"images": torch.rand(1, 3, 64, 64)}


NEEDS: dict[str, Callable[[], dict[str, Any]]] = {
    "index.md": a_detector,
    "train.md": a_run,
    "data.md": photos,
    "darknet.md": a_network_of_darknet,
}


@pytest.mark.parametrize("page", NEEDS)
def test_code_runs(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_page(page, **NEEDS[page]())
    if page == "index.md":
        assert found["loss"].ndim == 0
        assert found["losses"].keys() == {"classification", "box"}
    elif page == "train.md":
        assert re.match(r"(cat|dog) 0\.\d+ \[", capsys.readouterr().out)
    elif page == "data.md":
        assert found["batch"].images.shape == (8, 3, 320, 320)
    else:
        assert os.path.getsize("copy.weights") == os.path.getsize("yolov3.weights")
