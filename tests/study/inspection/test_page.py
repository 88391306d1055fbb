"""The page of `boxwright inspect` in a real browser: it works from a file and asks the network for nothing."""

import json
from functools import partial

import pytest

from boxwright.data import open_dataset
from boxwright.recipes import load_recipe
from boxwright.study import inspect_data, inspect_page
from inspect_scenes import write_dataset


@pytest.fixture(scope="module")
def report(data):
    recipe = load_recipe("retinanet-tiny", ["data.size=128"])
    return inspect_data(data, recipe, assigners=["max-iou:low_quality=none", "atss"], show=3)


@pytest.fixture(scope="module")
def file(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "inspect.html"
    path.write_text(inspect_page(report), encoding="utf-8")
    return path


@pytest.fixture
def open_page(open_file, file):
    return partial(open_file, file)


def cell(page, row, key):
    return page.locator(f"{row} [data-k={key}]").inner_text()


def test_page_is_one_file_that_names_no_other(file, report):
    text = file.read_text(encoding="utf-8")
    markup = text.split('<script type="application/json"')[0]
    for outside in ("http://", "https://", "@import", 'src="'):
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


def test_charts_show_every_step_and_choose_one(open_page, report):
    page = open_page()
    page.select_option("#assigner", label="max-iou:low_quality=none")
    steps = report["assigners"][1]["steps"]
    shown = page.locator(".charts svg").first.locator("text.value").all_text_contents()
    assert shown == [f"{step['summary']['unmatched_share']:.1%}".replace("%", " %") for step in steps]
    page.locator(".charts svg").nth(1).locator(".point").nth(2).click()
    assert page.locator("#step-value").inner_text() == f"positive_iou = {steps[2]['value']:g}"
    assert page.locator(".charts .point.chosen").count() == 2
    page.locator("table.axis-class tr[data-group='1'] th button").click()
    assert page.locator(".charts svg").first.locator("text.value").all_text_contents() != shown


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
    usual = report["assigners"][1]["usual"]
    assert first["name"] in page.locator(".portraits figcaption").inner_text()
    verdicts = first["assigners"][1]["steps"][usual]
    lonely = sum(not verdict["priors"] for verdict in verdicts)
    assert lonely > 0
    assert page.locator(".stage .object.none").count() == lonely
    assert verdicts[0]["why"] in page.locator(".verdict").inner_text()
    page.keyboard.press("ArrowRight")
    assert second["name"] in page.locator(".portraits figcaption").inner_text()
    page.keyboard.press("ArrowLeft")
    page.locator(".thumbs button[aria-label='a.png']").click()
    page.select_option("#assigner", index=0)
    page.locator("h1").click()
    image = next(image for image in report["images"] if image["name"] == "a.png")
    verdicts = image["assigners"][0]["steps"][report["assigners"][0]["usual"]]
    number, priors = next((i, v["priors"]) for i, v in enumerate(verdicts) if i and v["priors"])
    for _ in range(number):
        page.keyboard.press("n")
    assert page.locator(".stage .prior").count() == page.locator(".stage .dot").count() == len(priors)
    reason = page.locator(".verdict li").first.inner_text()
    assert reason.startswith(
        f"stride {report['recipe']['strides'][image['priors'][str(priors[0][0])][0]]:g}: IoU {priors[0][1]:g}"
    )
    page.locator(".stage .object").nth(2).dispatch_event("click")
    assert page.locator(".verdict h3").inner_text().startswith("Object 3:")


def test_the_setting_moves_the_priors_of_an_image_too(open_page, report):
    page = open_page()
    page.locator(".thumbs button[aria-label='a.png']").click()
    page.locator("h1").click()
    page.keyboard.press("a")
    assert page.locator("#assigner").input_value() == "1"
    image = next(image for image in report["images"] if image["name"] == "a.png")
    counts = {}
    for step, entry in enumerate(report["assigners"][1]["steps"]):
        lonely = sum(not verdict["priors"] for verdict in image["assigners"][1]["steps"][step])
        counts[entry["value"]] = lonely
    for _ in report["assigners"][1]["steps"]:
        page.keyboard.press("[")
    for value, lonely in counts.items():
        assert page.locator("#step-value").inner_text() == f"positive_iou = {value:g}"
        assert page.locator(".stage .object.none").count() == lonely
        page.keyboard.press("]")
    assert len(set(counts.values())) > 1


def test_filters_fade_the_objects_of_images_and_keys_pass_over_them(open_page, report):
    page = open_page()
    page.locator(".thumbs button[aria-label='a.png']").click()
    page.select_option("#filter-class", label="platelet")
    image = next(image for image in report["images"] if image["name"] == "a.png")
    platelets = [number for number, object_ in enumerate(image["objects"]) if object_["class"] == 1]
    assert page.locator(".stage .object.faded").count() == len(image["objects"]) - len(platelets) == 3
    assert "1 pass the filters" in page.locator(".portraits figcaption").inner_text()
    page.locator("h1").click()
    page.keyboard.press("n")
    assert page.locator(".verdict h3").inner_text().startswith(f"Object {platelets[0] + 1}:")
    without = [image["name"] for image in report["images"] if not any(o["class"] == 1 for o in image["objects"])]
    assert page.locator(".thumbs .faded").count() == len(without)
    page.locator("#reset").click()
    assert page.locator(".faded").count() == 0


def test_anchors_follow_the_number_chosen(open_page):
    page = open_page()
    page.locator("#k").focus()
    page.keyboard.press("End")
    assert page.locator(".anchors rect").count() == 9
    page.keyboard.press("Home")
    assert page.locator(".anchors rect").count() == 1
    page.locator("tr[data-anchors='4'] th button").click()
    assert page.locator(".anchors rect").count() == 4
    assert page.locator("#shapes").inner_text().count("×") == 4


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_its_width_and_passes_axe(open_page, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = open_page(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_hundreds_of_classes_and_long_names_leave_a_table_of_one_screen(tmp_path, open_file):
    file = write_dataset(tmp_path / "set") / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["categories"] += [{"id": number, "name": f"class {number} " * 30} for number in range(3, 300)]
    file.write_text(json.dumps(content))
    index = open_dataset(file, images=tmp_path / "set" / "images", cache=False)
    found = inspect_data(index, load_recipe("retinanet-tiny", ["data.size=128"]), assigners=["atss"], sweep=False)
    (tmp_path / "page.html").write_text(inspect_page(found), encoding="utf-8")
    page = open_file(tmp_path / "page.html")
    assert page.locator(".axis-class tbody tr").count() == 299
    assert page.locator(".scroll:has(> .axis-class)").bounding_box()["height"] < 600
    assert page.locator(".axis-class tbody tr:last-child th").bounding_box()["width"] < 300
