"""The page of `boxwright inspect` in a real browser: it works from a file and asks the network for nothing."""

import json
import shutil

import pytest

from boxwright.data.index import open_dataset
from boxwright.recipes import load_recipe
from boxwright.study import inspect_data, inspect_page
from inspect_scenes import write_dataset

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    index = open_dataset(write_dataset(tmp_path_factory.mktemp("data") / "set"))
    recipe = load_recipe("retinanet-tiny", ["data.size=128"])
    return inspect_data(index, recipe, assigners=["max-iou:low_quality=none", "atss"], show=3)


@pytest.fixture(scope="module")
def file(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "inspect.html"
    path.write_text(inspect_page(report), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine; on Debian: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason='needs playwright: pip install "boxwright[dev]"')
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser, file):
    """Open the page; afterwards nothing may have been written to the console or asked of the network."""
    troubles, contexts = [], []

    def open_at(width=1400, scheme="light", **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or troubles.append(asked.url))
        page.goto(file.as_uri())
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert troubles == []


def cell(page, row, key):
    return page.locator(f"{row} [data-k={key}]").inner_text()


def test_page_is_one_file_that_names_no_other(file, report):
    text = file.read_text(encoding="utf-8")
    markup = text.split('<script type="application/json"')[0]
    for outside in ("http://", "https://", "@import", "src="):
        assert outside not in markup, outside
    embedded = text.split('id="report">')[1].split("</script>")[0]
    assert json.loads(embedded) == report


def test_numbers_are_those_of_the_report_with_and_without_script(open_page, report):
    for options in ({}, {"java_script_enabled": False}):
        page = open_page(**options)
        for number, assigner in enumerate(report["assigners"]):
            found = assigner["summary"]["all"]
            row = f"table.assigners tr[data-assigner='{number}']"
            assert cell(page, row, "unmatched") == f"{found['unmatched']}"
            assert cell(page, row, "positives_per_object") == f"{found['positives_per_object']:.2f}"
            assert cell(page, row, "lost_share") == f"{found['lost_share']:.1%}".replace("%", " %")
        for number, group in enumerate(report["assigners"][0]["summary"]["size"]):
            assert cell(page, f"table.axis-size tr[data-group='{number}']", "objects") == str(group["objects"])


def test_filter_is_chosen_by_a_row_and_taken_away_again(open_page, report):
    page = open_page()
    page.locator("table.axis-class tr[data-group='1'] th button").click()
    platelets = report["assigners"][0]["summary"]["class"][1]
    assert cell(page, ".cards", "objects") == str(platelets["objects"]) == "4"
    assert page.locator("#filter-class").input_value() == "1"
    page.select_option("#filter-size", label="under 8 px")
    assert cell(page, ".cards", "objects") == "2"
    page.locator("table.axis-class tr[data-group='1'] th button").click()
    assert cell(page, ".cards", "objects") == "3"
    page.locator("#reset").click()
    assert cell(page, ".cards", "objects") == "9"


def test_slider_shows_the_precomputed_steps(open_page, report):
    page = open_page()
    page.select_option("#assigner", label="max-iou:low_quality=none")
    steps = report["assigners"][1]["steps"]
    page.locator("#step").focus()
    page.keyboard.press("End")
    assert page.locator("#step-value").inner_text() == "positive_iou = 0.7"
    assert cell(page, ".cards", "unmatched") == str(steps[-1]["summary"]["unmatched"])
    page.keyboard.press("Home")
    assert cell(page, ".cards", "unmatched") == str(steps[0]["summary"]["unmatched"])
    assert steps[0]["summary"]["unmatched"] != steps[-1]["summary"]["unmatched"]


def test_tables_sort_by_number(open_page):
    page = open_page()
    table = page.locator("table.axis-size")
    for order in ("descending", "ascending"):
        table.locator("thead th", has_text="objects").locator("button").click()
        numbers = [int(text) for text in table.locator("td[data-k=objects]").all_inner_texts()]
        assert numbers == sorted(numbers, reverse=order == "descending")
        assert table.locator(f"th[aria-sort={order}]").count() == 1
    assert len(set(numbers)) > 2


def test_images_are_walked_by_keys_and_show_priors_with_reasons(open_page, report):
    page = open_page()
    page.select_option("#assigner", label="max-iou:low_quality=none")
    page.locator("h1").click()
    first, second = report["images"][:2]
    assert first["name"] in page.locator("figcaption").inner_text()
    lonely = sum(not verdict["priors"] for verdict in first["assigners"][1])
    assert lonely > 0
    assert page.locator(".stage .object.none").count() == lonely
    assert first["assigners"][1][0]["none"] in page.locator(".verdict").inner_text()
    page.keyboard.press("ArrowRight")
    assert second["name"] in page.locator("figcaption").inner_text()
    page.keyboard.press("ArrowLeft")
    page.locator(".thumbs button[aria-label='a.png']").click()
    page.select_option("#assigner", index=0)
    page.locator("h1").click()
    verdicts = next(image["assigners"][0] for image in report["images"] if image["name"] == "a.png")
    number, priors = next((i, v["priors"]) for i, v in enumerate(verdicts) if i and v["priors"])
    for _ in range(number):
        page.keyboard.press("n")
    assert page.locator(".stage .prior").count() == len(priors)
    assert page.locator(".verdict li").first.inner_text().endswith(priors[0][-1])
    page.locator(".stage .object").nth(2).dispatch_event("click")
    assert page.locator(".verdict h3").inner_text().startswith("Object 3:")


def test_anchors_follow_the_number_chosen(open_page):
    page = open_page()
    page.locator("#k").focus()
    page.keyboard.press("End")
    assert page.locator(".anchors rect").count() == 9
    page.keyboard.press("Home")
    assert page.locator(".anchors rect").count() == 1


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_its_width_and_passes_axe(open_page, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = open_page(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
