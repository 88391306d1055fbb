"""The pages of the recipes say what the recipes say."""

import importlib.util
import json
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docs" / "recipe_pages.py"


def recipe_pages():
    spec = importlib.util.spec_from_file_location("recipe_pages", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_pages_are_as_the_recipes():
    script = recipe_pages()
    stale = [
        file.name
        for file, content in script.files().items()
        if not file.exists() or file.read_text(encoding="utf-8") != content
    ]
    assert not stale, f"run python {SCRIPT.name} in docs/ to write {stale}"


def test_results_are_tabulated(tmp_path, monkeypatch):
    script = recipe_pages()
    run = {"AP": 0.5, "AP50": 0.8, "classes": {"cell": 0.5}}
    speed = {"step_ms": 214.0, "minutes": 2.7, "peak_MiB": 1082}
    results = {
        "trainings": {"atss-tiny": {"0": run, "1": run | {"AP": 0.6}}},
        "speed": {"atss-tiny": speed},
        "objects": {"cell": 1234},
    }
    (tmp_path / "recipes_bccd.json").write_text(json.dumps(results))
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    text = script.numbers(["gfl-tiny", "atss-tiny"])
    assert "| recipe | AP | AP50 | AP cell (1,234) | step, ms | minutes | peak, MiB | images/s |" in text
    assert "| `atss-tiny` | 0.550 ± 0.071 (2 seeds) | 0.800 | 0.500 | 214.0 | 2.7 | 1082 |  |" in text
    assert "gfl-tiny" not in text
    assert script.numbers(["gfl-tiny"]) == "Not measured yet.\n"


def test_without_timings_the_processor_time_is_tabulated(tmp_path, monkeypatch):
    script = recipe_pages()
    run = {"AP": 0.1, "AP50": 0.3, "classes": {"fish": 0.1}, "epochs": 45, "cpu_seconds": 775}
    results = {"trainings": {"atss-tiny": {"0": run}}, "objects": {"fish": 1961}}
    (tmp_path / "recipes_aquarium.json").write_text(json.dumps(results))
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    text = script.table("aquarium", ["atss-tiny"])
    assert "| recipe | AP | AP50 | AP fish (1,961) | epochs | core minutes |" in text
    assert "| `atss-tiny` | 0.100 | 0.300 | 0.100 | 45 | 13 |" in text
