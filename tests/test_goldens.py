"""Every golden folder must be exercised by a test."""

from pathlib import Path

import pytest

from goldens import ROOT

TESTS = Path(__file__).parent


@pytest.mark.parametrize("kind", ["losses", "assigners"])
def test_every_golden_folder_has_a_test(shared: Path, kind: str) -> None:
    sources = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    folders = sorted(path.name for path in (ROOT / kind).iterdir() if path.is_dir())
    missing = [folder for folder in folders if f'golden_cases("{kind}/{folder}")' not in sources]
    assert folders
    assert not missing, f"golden folders without a test: {missing}"
