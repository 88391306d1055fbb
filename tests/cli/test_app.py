"""The command line as a whole: quick help, and errors as one sentence without a traceback."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import boxwright
from boxwright.cli.app import app

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, list(arguments))


def sentence(result):
    """The one line that an error prints."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("boxwright: ")
    return lines[0]


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"boxwright {boxwright.__version__}\n"


def test_help_names_every_command_and_imports_nothing_slow():
    code = (
        "import sys; from boxwright.cli.app import app; from typer.testing import CliRunner; "
        "result = CliRunner().invoke(app, ['--help']); print(result.stdout); "
        "slow = {'torch', 'timm', 'pydantic', 'pyarrow', 'numpy'} & set(sys.modules); sys.exit(', '.join(slow) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for command in ("demo", "train", "eval", "predict", "data", "recipes"):
        assert f" {command} " in result.stdout


def test_no_colour_where_the_environment_wants_none(monkeypatch):
    assert "\x1b[31m" in runner.invoke(app, ["evl"], color=True).stderr
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in runner.invoke(app, ["evl"], color=True).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evl"], "Did you mean 'eval'?"),
        (["eval", "run", "--dat", "x"], "--data"),
        (["predict", "run", "x.png", "--score", "3"], "--score"),
        (["predict", "run"], "Missing argument"),
        (["predict", "nowhere", "nothing.png"], "there is no image, folder or pattern nothing.png"),
        (["predict", "nowhere", __file__], "there is no run folder or weight file nowhere"),
        (["eval", "nowhere"], "there is no run folder or weight file nowhere"),
        (["eval", "nowhere", "--data", "nothing"], "there is no run folder or weight file nowhere"),
        (["recipes", "show", "retinanet-tyny"], "did you mean 'retinanet-tiny'?"),
        (["recipes", "show", "retinanet-tiny", "--set", "data.sise=3"], "did you mean 'size'?"),
        (["train", "--recipe", "retinanet-tiny", "--data", "nothing"], "nothing"),
        # up to Python 3.13 a name that is too long for the system, later one that is not there
        (["train", "--recipe", "x" * 300, "--data", "nothing"], "x" * 300),
        (["predict", "run", "x" * 300], "x" * 300),
        (["data", "check", "x" * 300], "x" * 300),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in sentence(run(*arguments))


def test_an_error_of_the_library_is_no_sentence_but_a_traceback(monkeypatch):
    """A defect must not look like the user's mistake."""
    monkeypatch.setattr("boxwright.recipes.recipe_names", lambda: 1 / 0)
    assert isinstance(run("recipes").exception, ZeroDivisionError)


def test_a_terminal_without_some_letters_gets_the_others():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "boxwright", "recipes"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert "retinanet-tiny" in result.stdout


def test_base_installation_is_told_what_to_install():
    """Without the train extra `boxwright` is there all the same."""
    code = "import sys; sys.modules['typer'] = None; from boxwright.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert 'pip install "boxwright[train]"' in result.stderr
    assert "Traceback" not in result.stderr


def test_a_package_that_is_missing_later_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "boxwright.recipes", None)
    monkeypatch.delitem(sys.modules, "boxwright.recipes")
    monkeypatch.setitem(sys.modules, "pydantic", None)
    for name in [name for name in sys.modules if name.startswith("boxwright.recipes")]:
        monkeypatch.delitem(sys.modules, name)
    assert "'pydantic'" in sentence(run("recipes"))
