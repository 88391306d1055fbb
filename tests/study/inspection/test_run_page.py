"""The page with a run: assigners that look at predictions, heat maps, losses, boxes to look at again."""

import csv
import io
import json
from functools import partial

import pytest

from boxwright.study import inspect_data, inspect_page
from boxwright.study.inspection.network import Network


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


def named(report, part):
    return [dict(zip(report["relabel"]["columns"], row, strict=True)) for row in report["relabel"][part]["rows"]]


def test_boxes_to_look_at_again_are_listed_filtered_sorted_and_drawn(open_gfl, gfl):
    report, page = gfl[0], open_gfl()
    annotated, missing = named(report, "annotated"), named(report, "unlabelled")
    assert len(annotated) == report["data"]["objects"]
    with_reason = [bool(row["reasons"]) for row in annotated]
    assert with_reason == sorted(with_reason, reverse=True)
    table = page.locator("table.relabel tbody tr:visible")
    assert table.count() == len(annotated)
    page.select_option("#only-class", label="platelet")
    platelets = [row for row in annotated if row["class"] == "platelet"]
    assert table.count() == len(platelets) > 0
    assert page.locator("#relabel-count").inner_text() == f"{len(platelets)} listed"
    page.select_option("#only-class", label="all")
    for reason in ("double box", "not seen", "not annotated"):
        wanted = [row for row in annotated + missing if reason in row["reasons"].split(", ")]
        page.select_option("#only-reason", reason)
        assert page.locator(f"#only-reason option[value='{reason}']").inner_text() == f"{reason} ({len(wanted)})"
        assert table.count() == len(wanted)
    page.select_option("#only-reason", label="all annotated")
    page.locator("table.relabel thead button", has_text="score").click()
    scores = [float(text) for text in page.locator("table.relabel td[data-k=score]:visible").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    page.locator("table.relabel tr[data-object='1'] th button").click()
    assert annotated[1]["image"] in page.locator(".suspects figcaption").inner_text()
    assert page.locator(".closeup polygon").count() == 4
    entry = report["relabel"]["annotated"]["drawn"][1]
    two = sum(prominence > 0.05 for prominence in entry["prominence"])
    assert page.locator(".closeup line.peak").count() == 4 + two
    assert page.locator(".closeup line.second").count() == two
    assert page.locator(".closeup rect.other").count() == len(entry["others"])


def test_the_reasons_are_said_in_words(open_gfl, gfl):
    page = open_gfl()
    said = page.locator(".suspects figcaption")
    for number, row in enumerate(named(gfl[0], "annotated")):
        page.locator(f"table.relabel tr[data-object='{number}'] th button").click()
        where = ", ".join(str(round(row[edge])) for edge in ("x1", "y1", "x2", "y2"))
        assert said.inner_text().startswith(f"{number + 1}: {row['image']}, {row['class']} at {where}.")
        assert ("Overlaps another" in said.inner_text()) == ("double box" in row["reasons"])
        assert ("No prediction that fits" in said.inner_text()) == ("not seen" in row["reasons"])
        assert ("Nothing speaks against it" in said.inner_text()) == (row["reasons"] == "")


def test_what_is_not_annotated_is_drawn_with_what_is(open_file, gfl, tmp_path):
    report = json.loads(json.dumps(gfl[0]))
    first = report["relabel"]["annotated"]["drawn"][0]
    kept = {name: first[name] for name in ("picture", "width", "height", "box")}
    row = ["a.png", "cell", 1, 2, 30, 40, "not annotated", 0.75, 0.125, *[None] * 11]
    report["relabel"]["unlabelled"] = {"rows": [row], "drawn": [kept | {"others": [[0, 0, 5, 5], [2, 2, 9, 9]]}]}
    path = tmp_path / "missing.html"
    path.write_text(inspect_page(report), encoding="utf-8")
    page = open_file(path)
    page.select_option("#only-reason", "not annotated")
    assert (
        page.locator(".suspects figcaption")
        .inner_text()
        .startswith("1: a.png, cell at 1, 2, 30, 40. Seen with a score of 0.75")
    )
    assert page.locator(".closeup rect.other").count() == 2
    assert page.locator(".closeup rect.predicted").count() == 1
    assert page.locator(".closeup rect.annotated").count() == 0


def test_the_list_is_walked_by_keys_and_saved(open_gfl, gfl):
    page = open_gfl(accept_downloads=True)
    rows = named(gfl[0], "annotated")
    page.locator("h1").click()
    page.keyboard.press("j")
    assert page.locator(".suspects figcaption").inner_text().startswith("2: ")
    page.keyboard.press("k")
    assert page.locator(".suspects figcaption").inner_text().startswith("1: ")
    page.select_option("#only-reason", "double box")
    with page.expect_download() as download:
        page.locator("#save-csv").click()
    saved = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    kept = [(rank, row) for rank, row in enumerate(rows, start=1) if "double box" in row["reasons"]]
    assert [int(row["rank"]) for row in saved] == [rank for rank, _ in kept]
    assert [row["image"] for row in saved] == [row["image"] for _, row in kept]
    assert [float(row["double_iou"]) for row in saved] == [row["double_iou"] for _, row in kept]
    assert [row["offset"] == "" for row in saved] == [row["offset"] is None for _, row in kept]
    with page.expect_download() as download:
        page.locator("#save-json").click()
    assert json.loads(download.value.path().read_text()) == [{"rank": rank} | row for rank, row in kept]


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
    assert report["relabel"]["annotated"]["rows"] == []
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
    assert page.locator("#relabel").count() == bool(report["relabel"]["unlabelled"]["rows"])
    for key in ("n", "ArrowRight", "h", "a", "]", "j"):
        page.keyboard.press(key)
