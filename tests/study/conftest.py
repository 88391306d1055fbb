"""Runs of a minute detector on the small data set with known trouble, and a browser that opens pages."""

import shutil

import pytest

from boxwright.data.index import open_dataset
from boxwright.data.synth import write_synthetic
from boxwright.engine import train
from inspect_scenes import write_dataset

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SMALL = ("data.size=128", "data.batch_size=2", "data.workers=0", "schedule.warmup_steps=0", "train.precision=32-true")


@pytest.fixture(scope="session")
def data_path(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="session")
def data(data_path):
    return open_dataset(data_path)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A minute set of synthetic scenes, to compare recipes on."""
    path = tmp_path_factory.mktemp("data") / "scenes"
    write_synthetic(path, train=16, val=8, size=64)
    return path


@pytest.fixture(scope="session")
def train_small(data_path, tmp_path_factory):
    """Train a recipe for an epoch or more on the four images of the data set."""

    def train_recipe(recipe, *overrides):
        path = tmp_path_factory.mktemp("runs") / recipe
        return train(recipe, data_path, overrides=[*SMALL, *overrides], output=path, quiet=True)

    return train_recipe


@pytest.fixture(scope="session")
def gfl_run(train_small):
    return train_small("gfl-tiny", "schedule.epochs=2")


@pytest.fixture(scope="session")
def tood_run(train_small):
    return train_small("tood-tiny", "schedule.epochs=2", "criterion.first.epochs=1")


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine; on Debian: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason='needs playwright: pip install "boxwright[dev]"')
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_file(browser):
    """Open a page; afterwards nothing may have been written to the console or asked of the network."""
    troubles, contexts = [], []

    def open_at(file, width=1400, scheme="light", **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(300_000)  # a busy machine is no reason to fail
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or troubles.append(asked.url))
        page.goto(file.as_uri())
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert troubles == []
