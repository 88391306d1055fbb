"""The report of a comparison in a real browser: it works from a file and asks the network for nothing."""

import json

import pytest

from boxwright.data.index import open_dataset
from boxwright.data.synth import write_synthetic
from boxwright.engine.evaluate import coco_ground_truth
from boxwright.study.comparison.markdown import compare_markdown
from boxwright.study.comparison.page import compare_page
from boxwright.study.comparison.report_files import write_report
from boxwright.study.comparison.summary import Entry, summarise
from simulated_runs import EPOCHS, write_run

QUALITIES = {"retinanet-tiny": 0.35, "gfl-tiny": 0.62, "tood-tiny": 0.6}
FACTS = {
    "description": "A recipe",
    "differs": ["detector.head.type: a → b"],
    "held": [],
    "parameters": 10,
    "shared_parameters": 7,
}
MISSING = {"name": "tood-tiny", "seed": 3, "reason": "the loss was not finite"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "scenes"
    write_synthetic(path, train=20, val=24, size=128)
    index = open_dataset(path)
    return path, index, coco_ground_truth(index.split("val"), index.class_names, index.category_ids)


@pytest.fixture(scope="module")
def report(scenes, tmp_path_factory):
    data, index, truth = scenes
    folder = tmp_path_factory.mktemp("runs")
    entries = [
        Entry(
            name,
            [
                write_run(folder / f"{name}-{seed}", data, truth, recipe=name, quality=quality, seed=seed)
                for seed in range(3)
            ],
            FACTS | {"epochs": EPOCHS},
        )
        for name, quality in QUALITIES.items()
    ]
    return summarise(entries, index, images=4) | {"failures": [MISSING], "held": ["data"]}


@pytest.fixture(scope="module")
def file(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "compare.html"
    path.write_text(compare_page(report), encoding="utf-8")
    return path


def column(page, table, key):
    cells = page.locator(f"table.{table} tbody tr:not(.off) [data-k={key}]")
    return [cell.split("±")[0].strip() for cell in cells.all_inner_texts()]


def traces(page, chart):
    return page.evaluate(f"document.getElementById('chart-{chart}').data.map((t) => [t.name, t.x, t.y])")


def test_page_is_one_small_file_that_names_no_other(file):
    text = file.read_text(encoding="utf-8")
    assert len(text) < 6e6
    assert text.count("<script") == 3
    markup = text.split('<script type="application/json"')[0]
    for outside in ("http://", "https://", "@import", "src="):
        assert outside not in markup, outside


def test_numbers_are_those_of_the_report_with_and_without_script(open_file, file, report):
    for options in ({}, {"java_script_enabled": False}):
        page = open_file(file, **options)
        assert page.locator("h1").inner_text() == report["verdict"]["headline"]
        for key in ("AP", "AP50", "AP_small"):
            shown = column(page, "recipes", key)
            assert shown == [f"{recipe['metrics'][key]['mean']:.3f}" for recipe in report["recipes"]]
        assert column(page, "classes", "train") == [str(kind["train"]) for kind in report["data"]["classes"]]
        differences = sorted((abs(pair["difference"]) for pair in report["pairs"]), reverse=True)
        assert column(page, "pairs", "difference") == [f"{value:.3f}" for value in differences]
        assert [text.split()[0] for text in column(page, "errors", "cost0")] == [
            f"{report['recipes'][0]['errors']['cost'][kind]['mean']:.3f}" for kind in report["kinds"]
        ]
        assert MISSING["reason"] in page.locator(".missing").inner_text()
        for recipe in report["recipes"]:
            for run in recipe["runs"]:
                assert run["command"] in page.locator("pre").inner_text()


def test_the_verdict_names_the_pairs_that_it_decides(open_file, file, report):
    assert report["winner"] is None
    assert report["leaders"] == [1, 2]  # retinanet-tiny is far behind, the others are not to be told apart
    page = open_file(file)
    assert "within the noise" in page.locator(".verdict-text").inner_text()
    assert page.locator(".settle li").count() == 1
    assert sorted(column(page, "pairs", "ahead")) == ["gfl-tiny", "nobody", "tood-tiny"]


def test_tables_sort_by_number(open_file, file):
    page = open_file(file)
    for order in ("descending", "ascending"):
        page.locator("table.recipes thead th", has_text="AP50").locator("button").click()
        values = [float(text) for text in column(page, "recipes", "AP50")]
        assert values == sorted(values, reverse=order == "descending")
        assert page.locator(f"table.recipes th[aria-sort={order}]").count() == 1


def test_a_recipe_is_hidden_everywhere_and_comes_back(open_file, file, report):
    page = open_file(file)
    assert len(column(page, "pairs", "difference")) == 3
    page.locator(".legend input[data-recipe='0']").focus()
    page.keyboard.press("Space")
    assert len(column(page, "recipes", "AP")) == 2
    assert len(column(page, "pairs", "difference")) == 1
    assert page.locator("table.classes [data-k=ap0]").first.is_hidden()
    assert page.locator(".case.shown figure:visible").count() == 2
    for chart in ("learning", "precision", "calibration", "errors", "classes", "sizes", "seeds"):
        names = {name for name, _, _ in traces(page, chart) if name}
        assert names == {"gfl-tiny", "tood-tiny"}, chart
    page.locator("#reset").click()
    assert len(column(page, "recipes", "AP")) == 3
    assert page.locator(".case.shown figure:visible").count() == 3


def test_charts_draw_what_the_report_says_and_follow_their_choices(open_file, file, report):
    page = open_file(file)
    curves = [run["curve"] for run in report["recipes"][0]["runs"]]

    def drawn(chart, name):
        return next((x, y) for own, x, y in traces(page, chart) if own == name)

    for metric in ("AP", "AP75"):
        page.select_option("#learning-metric", metric)
        x, y = drawn("learning", "retinanet-tiny")
        assert x == list(range(1, EPOCHS + 1))
        assert y == pytest.approx([sum(curve[i][metric] for curve in curves) / 3 for i in range(EPOCHS)])
    page.select_option("#loss-term", "box")
    assert drawn("loss", "retinanet-tiny")[1][0] == pytest.approx(
        sum(curve[0]["losses"]["box"] for curve in curves) / 3
    )
    page.select_option("#precision-iou", "0.75")
    assert drawn("precision", "gfl-tiny")[1] == report["recipes"][1]["precision"]["0.75"]
    kinds, costs = (drawn("errors", "tood-tiny")[i] for i in (1, 0))
    found = report["recipes"][2]["errors"]["cost"]
    assert costs == [found[kind]["mean"] for kind in kinds]


def test_images_are_walked_by_keys_and_layers_are_hidden(open_file, file, report):
    page = open_file(file)
    shown = page.locator(".case.shown")
    first, second = report["images"][:2]
    assert first["spread"] >= second["spread"] > 0
    assert first["name"] in shown.inner_text()
    page.keyboard.press("ArrowRight")
    assert second["name"] in shown.inner_text()
    page.keyboard.press("ArrowLeft")
    page.locator(".thumbs button").nth(1).click()
    assert second["name"] in shown.inner_text()
    tile = shown.locator("figure").nth(2)
    for kind, wanted in (("right", True), ("wrong", False)):
        boxes = [entry for entry in second["recipes"][2]["detections"] if entry["right"] is wanted]
        assert tile.locator(f"rect.{kind}").count() == len(boxes)
    assert tile.locator("rect.missed").count() == len(second["recipes"][2]["missed"])
    page.locator("[data-layer=missed]").uncheck()
    page.locator("[data-layer=right]").uncheck()
    assert shown.locator("rect.right:visible, rect.missed:visible").count() == 0
    assert shown.locator("rect.object:visible").count() > 0


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_its_width_and_passes_axe(open_file, file, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = open_file(file, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_markdown_says_the_same(report):
    text = compare_markdown(report)
    assert text.startswith(f"# {report['verdict']['headline']}\n")
    for recipe in report["recipes"]:
        assert f"| {recipe['name']} | {recipe['metrics']['AP']['mean']:.3f} ± " in text
    assert text.count("\nboxwright train --recipe ") == 9
    assert MISSING["reason"] in text


def test_a_single_run_has_a_report_of_its_own(scenes, tmp_path, open_file):
    data, _, truth = scenes
    run = write_run(tmp_path / "run", data, truth)
    page = open_file(write_report(run))
    numbers = json.loads((run.path / "report.json").read_text())
    assert page.locator("h1").inner_text() == f"retinanet-tiny: AP {numbers['recipes'][0]['metrics']['AP']['mean']:.3f}"
    assert page.locator("table.pairs").count() == 0
    assert page.locator(".case.shown figure").count() == 1
    assert len(traces(page, "learning")) == 1
    assert numbers["recipes"][0]["runs"][0]["peak_memory"] > 1e8
    (run.path / "predictions.json").unlink()
    assert write_report(run) is None


def test_the_learning_rate_is_drawn_with_the_losses(open_file, file):
    page = open_file(file)
    page.select_option("#loss-term", "learning rate")
    assert {tuple(y) for name, _, y in traces(page, "loss") if name} == {(0.001,) * EPOCHS}


def test_the_first_column_stays_where_a_narrow_page_is_scrolled(open_file, file):
    page = open_file(file, 420)
    box = page.locator(".scroll:has(table.recipes)")
    head = box.locator("tbody th").first
    before = head.bounding_box()["x"]
    box.evaluate("element => element.scrollBy(300, 0)")
    assert box.evaluate("element => element.scrollLeft") > 100
    assert head.bounding_box()["x"] == pytest.approx(before, abs=1)


def test_a_recipe_without_runs_is_no_reason_to_name_the_other(scenes, tmp_path):
    data, index, truth = scenes
    entry = Entry("gfl-tiny", [write_run(tmp_path / "run", data, truth, recipe="gfl-tiny")], FACTS)
    report = summarise([entry], index, absent=["tood-tiny", "atss-tiny"])
    assert report["verdict"]["headline"] == "No winner can be named"
    assert report["verdict"]["text"].startswith("tood-tiny and atss-tiny have no finished run and are left out. gfl-ti")


def test_nothing_found_is_no_tie(scenes, tmp_path):
    data, index, truth = scenes
    entries = []
    for name in ("gfl-tiny", "tood-tiny"):
        runs = [write_run(tmp_path / f"{name}-{seed}", data, truth, recipe=name, seed=seed) for seed in range(2)]
        for run in runs:
            (run.path / "predictions.json").write_text("[]")
        entries.append(Entry(name, runs, FACTS))
    verdict = summarise(entries, index)["verdict"]
    assert verdict["headline"] == "No winner can be named"
    assert "every AP is 0" in verdict["text"]
    assert verdict["settle"] == []
