"""`boxwright train`: a run folder, and its report."""

import json

from typer.testing import CliRunner

from boxwright.cli.app import app
from boxwright.data.synth import write_synthetic


def test_a_training_leaves_a_report(tmp_path):
    write_synthetic(tmp_path / "scenes", train=8, val=6, size=64)
    changes = ("data.size=64", "data.workers=0", "schedule.epochs=1", "schedule.warmup_steps=1")
    arguments = [
        "train",
        "--recipe",
        "retinanet-tiny",
        "--data",
        str(tmp_path / "scenes"),
        "--output",
        str(tmp_path / "run"),
    ]
    for change in changes:
        arguments += ["--set", change]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert f"report: {tmp_path / 'run' / 'report.html'}" in result.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [recipe["name"] for recipe in report["recipes"]] == ["retinanet-tiny"]
    assert [point["epoch"] for point in report["recipes"][0]["runs"][0]["curve"]] == [1]
    assert report["pairs"] == []
    assert "Plotly" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "report.md").read_text().startswith("# retinanet-tiny: AP ")
