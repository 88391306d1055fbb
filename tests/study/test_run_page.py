"""The page with a run: assigners that look at predictions, heat maps, losses, ambiguous boxes."""

import csv
import io
import json
from functools import partial

import pytest

from boxwright.study import ambiguous_csv, inspect_data, inspect_page
from boxwright.study.network import Network


def written(run, data, folder, **options):
    network = Network.of_run(run.path, data)
    report = inspect_data(data, network.recipe, network=network, show=3, **options)
    path = folder / "inspect.html"
    path.write_text(inspect_page(report), encoding="utf-8")
    return report, path


@pytest.fixture(scope="module")
def tood(tood_run, data, tmp_path_factory):
    names = ["simota", "dynamic-soft-label", "dual", "atss"]
    return written(tood_run, data, tmp_path_factory.mktemp("tood"), assigners=names)


@pytest.fixture(scope="module")
def gfl(gfl_run, data, tmp_path_factory):
    return written(gfl_run, data, tmp_path_factory.mktemp("gfl"), assigners=["max-iou"])


@pytest.fixture
def open_tood(open_file, tood):
    return partial(open_file, tood[1])


@pytest.fixture
def open_gfl(open_file, gfl):
    return partial(open_file, gfl[1])


def test_assigners_that_look_at_predictions_come_once_for_each_stage(tood):
    names = [assigner["name"] for assigner in tood[0]["assigners"]]
    assert names == [
        "task-aligned (of tood-tiny), after training",
        "task-aligned (of tood-tiny), before training",
        "atss (first epochs of tood-tiny)",
        "simota, after training",
        "simota, before training",
        "dynamic-soft-label, after training",
        "dynamic-soft-label, before training",
        "dual, one-to-many, after training",
        "dual, one-to-one, after training",
        "dual, one-to-many, before training",
        "dual, one-to-one, before training",
    ]
    one = tood[0]["assigners"][8]["summary"]["all"]
    assert one["positives"] <= one["objects"]
    assert json.loads(json.dumps(tood[0])) == tood[0]


def test_counts_are_those_of_the_images_that_are_drawn(tood):
    report = tood[0]
    assert sum(len(image["objects"]) for image in report["images"]) == report["data"]["objects"]  # one image has none
    for number, assigner in enumerate(report["assigners"]):
        for step, entry in enumerate(assigner["steps"]):
            verdicts = [verdict for image in report["images"] for verdict in image["assigners"][number]["steps"][step]]
            assert sum(len(verdict["priors"]) for verdict in verdicts) == entry["summary"]["positives"]
            assert sum(not verdict["priors"] for verdict in verdicts) == entry["summary"]["unmatched"]


def test_losses_divide_among_positives_and_background(tood):
    for image in tood[0]["images"]:
        for number, assigner in enumerate(tood[0]["assigners"]):
            loss, verdicts = image["assigners"][number]["loss"], image["assigners"][number]["steps"][assigner["usual"]]
            assert {str(match[0]) for verdict in verdicts for match in verdict["priors"]} == set(loss["positives"])
            for column, term in enumerate(loss["shared"]):
                total = sum(shares[column] for shares in loss["positives"].values()) + loss["background"][column]
                assert total == pytest.approx(loss["terms"][term], rel=1e-2, abs=1e-6)


def test_heat_maps_are_shown_over_the_picture(open_tood, tood):
    page = open_tood()
    image = tood[0]["images"][0]
    titles = page.locator(".heat-row h3").all_inner_texts()
    assert titles == ["Score before training", "Score after training", "Loss of each prior"]
    assert page.locator(".heat-row").first.locator("button").count() == 1 + len(image["grids"])
    button = page.locator("[data-heat=score0][data-level='1']")
    button.click()
    overlay = page.locator(".stage canvas.overlay")
    height, width, stride, _ = image["grids"][1]
    assert overlay.evaluate("c => [c.height, c.width]") == [height, width]
    shown, stage = overlay.bounding_box(), page.locator(".portraits .stage").bounding_box()
    assert shown["width"] == pytest.approx(stage["width"] * width * stride / image["width"], rel=0.01)
    assert "score after training, stride 16" in page.locator(".portraits figcaption").inner_text()
    page.locator(".portraits .stage").hover()
    assert page.locator(".readout").inner_text().startswith("cell (")
    assert button.get_attribute("aria-pressed") == "true"
    page.locator("[data-heat=score0][data-level='1']").click()
    assert overlay.count() == 0
    page.locator("h1").click()
    for heading in ("score before", "score after", "loss of"):
        page.keyboard.press("h")
        assert f"Over it: {heading}" in page.locator(".portraits figcaption").inner_text()
    page.keyboard.press("h")
    assert overlay.count() == 0
    page.locator("#own-class").check()
    label = tood[0]["data"]["classes"][image["objects"][0]["class"]]
    assert page.locator(".heat-row h3").first.inner_text() == f"Score before training, {label}"


def test_the_loss_of_an_object_is_read_off_the_page(open_tood, tood):
    page = open_tood()
    loss = tood[0]["images"][0]["assigners"][0]["loss"]
    verdict = tood[0]["images"][0]["assigners"][0]["steps"][tood[0]["assigners"][0]["usual"]][0]
    rows = page.locator(".loss-table tbody tr")
    assert rows.count() == len(loss["shared"])
    own = [sum(loss["positives"][str(match[0])][i] for match in verdict["priors"]) for i in range(rows.count())]
    for number, value in enumerate(own):
        cells = rows.nth(number).locator("td").all_inner_texts()
        assert float(cells[0]) == pytest.approx(value, rel=0.01)
        assert float(cells[2]) == pytest.approx(loss["background"][number], rel=0.01, abs=1e-9)
    if verdict["priors"]:
        bars = page.locator(".loss-bar").all_inner_texts()
        values = [float(text.split()[1]) for text in bars]
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(sum(own), rel=0.02)


def test_another_setting_says_that_losses_belong_to_the_usual_one(open_tood):
    page = open_tood()
    page.locator("h1").click()
    page.keyboard.press("]")
    assert "usual setting" in page.locator(".verdict").inner_text()
    assert page.locator(".loss-table").count() == 0


def test_ambiguous_boxes_are_listed_filtered_sorted_and_drawn(open_gfl, gfl):
    report, page = gfl[0], open_gfl()
    columns, rows = report["ambiguous"]["columns"], report["ambiguous"]["rows"]
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    assert len(rows) == report["data"]["objects"]
    found = [row["ambiguity"] for row in named if row["iou"] >= 0.5]
    lost = [row["ambiguity"] for row in named if row["iou"] < 0.5]
    assert [row["ambiguity"] for row in named] == sorted(found, reverse=True) + sorted(lost, reverse=True)
    table = page.locator("table.ambiguous tbody tr:visible")
    assert table.count() == len(rows)
    page.select_option("#only-class", label="platelet")
    platelets = [row for row in named if row["class"] == "platelet"]
    assert table.count() == len(platelets) > 0
    assert page.locator("#ambiguous-count").inner_text() == f"{len(platelets)} listed"
    page.select_option("#only-class", label="all")
    page.locator("table.ambiguous thead button", has_text="score").click()
    scores = [float(text) for text in page.locator("table.ambiguous td[data-k=score]").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    page.locator("table.ambiguous tr[data-object='1'] th button").click()
    assert named[1]["image"] in page.locator(".suspects figcaption").inner_text()
    assert page.locator(".closeup polygon").count() == 4
    entry = report["ambiguous"]["drawn"]["1"]
    two = sum(prominence >= 0.05 for prominence in entry["prominence"])
    assert page.locator(".closeup line.peak").count() == 4 + two
    assert page.locator(".closeup line.second").count() == two


def test_the_list_is_walked_by_keys_and_saved(open_gfl, gfl):
    page = open_gfl(accept_downloads=True)
    rows = gfl[0]["ambiguous"]["rows"]
    page.locator("h1").click()
    page.keyboard.press("j")
    assert page.locator(".suspects figcaption").inner_text().startswith("2: ")
    page.keyboard.press("k")
    assert page.locator(".suspects figcaption").inner_text().startswith("1: ")
    page.select_option("#only-side", label=rows[0][7])
    with page.expect_download() as download:
        page.locator("#save-csv").click()
    saved = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    kept = [row for row in rows if row[7] == rows[0][7]]
    assert [row["image"] for row in saved] == [row[0] for row in kept]
    assert [float(row["ambiguity"]) for row in saved] == [row[6] for row in kept]
    with page.expect_download() as download:
        page.locator("#save-json").click()
    assert [entry["ambiguity"] for entry in json.loads(download.value.path().read_text())] == [row[6] for row in kept]
    whole = list(csv.DictReader(io.StringIO(ambiguous_csv(rows))))
    assert [int(row["rank"]) for row in whole] == list(range(1, len(rows) + 1))
    assert [float(row["x1"]) for row in whole] == [row[2] for row in rows]


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_their_width_and_pass_axe(open_gfl, open_tood, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    for open_page in (open_gfl, open_tood):
        page = open_page(width, scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_an_image_without_objects_is_shown_with_its_background(open_file, gfl_run, data, tmp_path):
    network = Network.of_run(gfl_run.path, data)
    report = inspect_data(data, network.recipe, network=network, images=["c.png"], assigners=["simota"], sweep=False)
    assert report["ambiguous"]["rows"] == []
    [image] = report["images"]
    assert image["objects"] == []
    for entry in image["assigners"]:
        assert entry["loss"]["positives"] == {}
        assert entry["loss"]["background"][0] > 0
    path = tmp_path / "empty.html"
    path.write_text(inspect_page(report), encoding="utf-8")
    page = open_file(path)
    assert page.locator(".verdict").inner_text() == "No object in this image"
    assert page.locator(".heat-row h3").all_inner_texts()[-1] == "Loss of each prior"
    assert page.locator("#ambiguous").count() == 0
    for key in ("n", "ArrowRight", "h", "a", "]", "j"):
        page.keyboard.press(key)
