"""Export: one graph, one file, the same numbers in onnxruntime as in PyTorch."""

import builtins
import json

import pytest
import torch
from PIL import Image

from boxwright.data.images import read_image
from boxwright.engine.export import Difference, ExportableDetector, _apart, compare_onnx, export_onnx, letterbox
from boxwright.errors import BoxwrightError, RunError
from boxwright.models import Postprocess
from boxwright.models.layers import init_conv
from boxwright.recipes import build_detector, load_recipe


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_detector(load_recipe("retinanet-tiny", ["data.size=64"]), ["cell", "platelet"], pretrained=False)


@pytest.fixture
def pictures(tmp_path):
    return draw(tmp_path, (90, 50), (40, 64), (64, 64))


def draw(tmp_path, *sizes):
    files = []
    for number, size in enumerate(sizes):
        noise = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8, generator=torch.manual_seed(number))
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(noise.numpy()).save(files[-1])
    return files


@pytest.mark.parametrize("batch", [2, None])
def test_onnxruntime_computes_the_same(detector, pictures, tmp_path, batch):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "detector.onnx"
    export_onnx(detector, path, batch=batch)
    difference = compare_onnx(path, detector, pictures, batch=batch)
    assert difference.images == 3
    assert difference.boxes < 1e-2
    assert difference.scores < 1e-4
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert metadata["classes"] == ["cell", "platelet"]
    assert metadata["size"] == [64, 64]
    assert metadata["padding"] == [124, 116, 104]
    other = build_detector(load_recipe("retinanet-tiny", ["data.size=64"]), detector.class_names, pretrained=False)
    assert compare_onnx(path, other, pictures, batch=batch).boxes > 1e-2


def lively(name):
    """Build a tiny detector whose scores and boxes differ from prior to prior, without having been trained."""
    torch.manual_seed(0)
    detector = build_detector(load_recipe(name, ["data.size=64"]), ["cell", "platelet"], pretrained=False)
    init_conv(detector.head, std=0.15)
    detector.postprocess = Postprocess(score_threshold=0.2, pre_nms=40, max_detections=30)
    return detector


def test_an_export_says_nothing_of_its_own(tmp_path, caplog):
    export_onnx(lively("tood-tiny"), tmp_path / "detector.onnx")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


# one head by default, in a file for any number of images; the others are slow
HEADS = ["retinanet", "atss", "gfl", "gflv2", "nanodet", "nanodet-plus", "tood", "ssd"]
CASES = [pytest.param(f"{name}-tiny", 1, marks=pytest.mark.slow, id=name) for name in HEADS]


def checked_suppression(detector, path, pictures, batch):
    """Export with NMS inside; the file and the module find what the detector finds. Return module and images."""
    export_onnx(detector, path, batch=batch, nms=True)
    difference = compare_onnx(path, detector, pictures, batch=batch, nms=True)
    assert difference.alone == 0
    assert difference.boxes < 1e-2
    assert difference.scores < 1e-4
    module = ExportableDetector(detector, nms=True)
    images = torch.stack([letterbox(read_image(file), 64) for file in pictures])
    boxes, scores, _, count = module(images)
    assert (count > 2).all()
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    for image in images if batch == 1 else [images]:
        *found, counts = session.run(None, {"images": image.reshape(-1, 3, 64, 64).numpy()})
        for number, kept in enumerate(counts):
            assert not any(values[number, kept:].any() for values in found)  # the rest is padded with zeros
    detections = detector(images)
    torch.testing.assert_close(detections.boxes, boxes)
    torch.testing.assert_close(detections.scores, scores)
    return module, images


@pytest.mark.parametrize(("name", "batch"), [("atss-tiny", None), *CASES])
def test_duplicates_are_suppressed_inside_the_file(pictures, tmp_path, name, batch):
    """The same detections as torchvision's `batched_nms` leaves, from every head."""
    pytest.importorskip("onnxruntime")
    detector, path = lively(name), tmp_path / "detector.onnx"
    module, images = checked_suppression(detector, path, pictures, batch)
    exported = torch.export.export(module, (images,)).module()
    for found, wanted in zip(exported(images), module(images), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("overrides", "batch"),
    [([], None), pytest.param(["detector.regions.class_agnostic=true"], 1, marks=pytest.mark.slow)],
)
def test_two_stages_are_one_file(tmp_path, overrides, batch):
    pytest.importorskip("onnxruntime")
    pictures = draw(tmp_path, (64, 64), (64, 64))  # without padding, whose equal scores may be cut off in any order
    torch.manual_seed(0)
    recipe = load_recipe("faster-rcnn-tiny", ["data.size=64", "detector.proposals.post_nms=60", *overrides])
    detector = build_detector(recipe, ["cell", "platelet"], pretrained=False)
    init_conv(detector.head, std=0.15)
    for layer in (detector.regions.class_logits, detector.regions.box_params):
        torch.nn.init.normal_(layer.weight, std=0.2)
    path = tmp_path / "detector.onnx"
    with pytest.raises(RunError, match="export it with --nms"):
        export_onnx(detector, path, batch=batch)
    checked_suppression(detector, path, pictures, batch)


def test_the_scores_of_a_softmax_are_exported(pictures, tmp_path):
    pytest.importorskip("onnxruntime")
    softmax = ["data.size=64", "criterion.classification.type=softmax-focal"]
    detector = build_detector(load_recipe("retinanet-tiny", softmax), ["cell", "platelet"], pretrained=False)
    export_onnx(detector, tmp_path / "detector.onnx")
    assert compare_onnx(tmp_path / "detector.onnx", detector, pictures).scores < 1e-4


def test_torch_export_takes_the_detector_and_leaves_it_usable(detector):
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    module = ExportableDetector(detector)
    with torch.no_grad():
        exported = torch.export.export(module, (images,)).module()
        for found, wanted in zip(exported(images), module(images), strict=True):
            torch.testing.assert_close(found, wanted)
        assert len(detector(images)) == 2


def test_letterbox_fits_any_shape_to_the_top_left():
    for shape, (height, width) in (((3, 100, 50), (64, 32)), ((3, 50, 100), (64, 128)), ((3, 7, 900), (1, 128))):
        image = torch.full(shape, 200, dtype=torch.uint8)
        expected = torch.tensor([124, 116, 104], dtype=torch.uint8).view(3, 1, 1).repeat(1, 64, 128)
        expected[:, :height, :width] = 200
        assert torch.equal(letterbox(image, (64, 120)), expected)


def test_the_largest_difference_over_all_calls_is_told(detector, pictures, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    calls = []

    class Session:
        """Computes as PyTorch does, but in the first call."""

        def __init__(self, path, providers):
            self.module = ExportableDetector(detector)

        def run(self, outputs, inputs):
            calls.append(inputs["images"])
            boxes, scores = self.module(torch.from_numpy(inputs["images"]))
            return [(boxes + 1.5 * (len(calls) == 1)).numpy(), (scores + 0.25 * (len(calls) == 1)).numpy()]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    difference = compare_onnx("a.onnx", detector, pictures, batch=2)
    assert [call.shape for call in calls] == [(2, 3, 64, 64)] * 2
    assert (calls[1][0] == calls[1][1]).all()  # filled up with the last image
    assert (difference.images, difference.alone) == (3, 0)
    assert (difference.boxes, difference.scores) == (pytest.approx(1.5, abs=1e-3), pytest.approx(0.25, abs=1e-5))
    assert "on 3 images, largest difference: boxes 1.5e+00 px, scores 2.5e-01" in str(difference)


def test_detections_of_all_calls_are_compared(pictures, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    detector, calls = lively("retinanet-tiny"), []

    class Session:
        """Finds what PyTorch finds, but in the first call moves all by a quarter of a pixel and the best far away."""

        def __init__(self, path, providers):
            self.module = ExportableDetector(detector, nms=True)

        def run(self, outputs, inputs):
            calls.append(inputs["images"])
            boxes, *rest = self.module(torch.from_numpy(inputs["images"]))
            if len(calls) == 1:
                boxes += 0.25
                boxes[:, 0] += 1000
            return [value.numpy() for value in (boxes, *rest)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    difference = compare_onnx("a.onnx", detector, pictures, batch=2, nms=True)
    assert len(calls) == 2
    assert difference.images == 3
    assert difference.alone >= 2  # one of each image of the first call; what PyTorch found may lie near another
    assert difference.boxes == pytest.approx(0.25, abs=1e-4)


FOUND = ([[0.0, 0, 10, 10], [20, 20, 40, 40]], [0.9, 0.5], [0, 1])


@pytest.mark.parametrize(
    ("found", "boxes", "scores", "alone"),
    [
        (FOUND, 0, 0, 0),
        (tuple(values[::-1] for values in FOUND), 0, 0, 0),
        (([[0.0, 0, 10, 10.25], [20, 20, 40, 40]], [0.9, 0.505], [0, 1]), 0.25, 0.005, 0),
        (([[0.0, 0, 10, 10.75], [20, 20, 40, 40]], [0.9, 0.5], [0, 1]), 0, 0, 2),
        (([[0.0, 0, 10, 10], [20, 20, 40, 40]], [0.88, 0.5], [0, 1]), 0, 0, 2),
        (([[0.0, 0, 10, 10], [20, 20, 40, 40]], [0.9, 0.5], [1, 1]), 0, 0, 2),
        (([[0.0, 0, 10, 10]], [0.9], [0]), 0, 0, 1),
        ((*([*values, values[0]] for values in FOUND[:2]), [0, 1, 1]), 0, 0, 1),
        (([[50.0, 50, 60, 60]], [0.9], [0]), 0, 0, 3),
    ],
)
def test_detections_are_compared_whatever_their_order(found, boxes, scores, alone):
    ours, theirs = (
        dict(zip(("boxes", "scores", "labels"), map(torch.tensor, values), strict=True)) for values in (found, FOUND)
    )
    apart, single = _apart(ours, theirs)
    assert single == alone
    assert apart.tolist() == pytest.approx([boxes, scores], abs=1e-6)
    assert ("that only one of them has" in str(Difference(1, boxes, scores, single))) == bool(alone)


def test_a_file_that_cannot_be_written_is_said_before_the_network_is_traced(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **options: pytest.fail("traced"))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path, reason in (("folder", "Is a directory"), ("file/a.onnx", "File exists|Not a directory")):
        with pytest.raises(RunError, match=rf"cannot write .*{path.partition('/')[0]}: ({reason})"):
            export_onnx(detector, tmp_path / path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_failed_export_leaves_the_file_of_the_last_one(detector, tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(b"the last one")
    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_onnx(detector, tmp_path / "a.onnx")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.onnx", b"the last one")]


def test_missing_extra_is_named(detector, tmp_path, monkeypatch):
    load = builtins.__import__

    def without_onnx(name, *args, **kwargs):
        if name.split(".")[0] == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(BoxwrightError, match=r"boxwright\[export\]"):
        export_onnx(detector, tmp_path / "detector.onnx")
