"""`boxwright compare`: arguments in, the verdict and three files out."""

import pytest
from typer.testing import CliRunner

from boxwright.cli.app import app
from boxwright.cli.compare import _seconds
from boxwright.errors import BoxwrightError

RUNNER = CliRunner()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172800)])
def test_budget_is_a_number_with_a_unit(text, seconds):
    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "1h30m", "-5m"])
def test_other_budgets_are_told(text):
    with pytest.raises(BoxwrightError, match=r"--budget .* must be a number and a unit"):
        _seconds(text)


def test_arguments_reach_the_comparison_and_its_verdict_is_printed(monkeypatch, tmp_path):
    seen = {}
    spread = {"mean": 0.25, "deviation": 0.01}
    recipe = {"name": "gfl-tiny", "metrics": {"AP": spread, "AP50": spread, "AP75": spread}, "runs": [1, 2]}
    verdict = {"headline": "No winner", "text": "Within the noise.", "settle": ["9 seeds would do."]}

    def compare(data, recipes, **arguments):
        seen.update(arguments, data=data, recipes=recipes)
        return {"recipes": [recipe], "verdict": verdict}

    monkeypatch.setattr("boxwright.study.compare", compare)
    arguments = (
        "compare --data scenes --recipes gfl-tiny,tood-tiny --seeds 2 --set schedule.epochs=3 --budget 10m --jobs 2"
    )
    more = f"--engine slurm --engine-option slurm_partition=gpu --engine-option timeout_min=60 --output {tmp_path}"
    result = RUNNER.invoke(app, f"{arguments} {more}".split(), catch_exceptions=False)
    assert result.exit_code == 0
    assert "No winner. Within the noise.\n9 seeds would do.\n" in result.output
    assert "0.250 ± 0.010" in result.output
    assert (str(seen["data"]), seen["recipes"], seen["seeds"], seen["budget"]) == (
        "scenes",
        ["gfl-tiny", "tood-tiny"],
        2,
        600,
    )
    assert (seen["jobs"], seen["engine"]) == (2, "slurm")
    assert seen["engine_options"] == {"slurm_partition": "gpu", "timeout_min": 60}
    assert seen["overrides"] == ["schedule.epochs=3"]
