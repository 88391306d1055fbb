"""Export: one graph, one file, the same numbers in onnxruntime as in PyTorch."""

import builtins
import json

import pytest
import torch
from PIL import Image

from boxwright.engine.export import ExportableDetector, compare_onnx, export_onnx, letterbox
from boxwright.errors import BoxwrightError
from boxwright.recipes import build_detector, load_recipe


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_detector(load_recipe("retinanet-tiny", ["data.size=64"]), ["cell", "platelet"], pretrained=False)


@pytest.fixture
def pictures(tmp_path):
    files = []
    for number, size in enumerate([(90, 50), (40, 64), (64, 64)]):
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
    other = build_detector(load_recipe("retinanet-tiny", ["data.size=64"]), detector.class_names, pretrained=False)
    assert compare_onnx(path, other, pictures, batch=batch).boxes > 1e-2


def test_torch_export_takes_the_detector_and_leaves_it_usable(detector):
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    module = ExportableDetector(detector)
    with torch.no_grad():
        exported = torch.export.export(module, (images,)).module()
        for found, wanted in zip(exported(images), module(images), strict=True):
            torch.testing.assert_close(found, wanted)
        assert len(detector(images)) == 2


def test_letterbox_fits_any_shape_to_the_top_left():
    for shape in ((3, 100, 50), (3, 50, 100), (3, 7, 900)):
        image = torch.full(shape, 200, dtype=torch.uint8)
        fitted = letterbox(image, (64, 120))
        assert fitted.shape == (3, 64, 128)
        assert fitted[0, 0, 0] == 200


def test_missing_extra_is_named(detector, tmp_path, monkeypatch):
    load = builtins.__import__

    def without_onnx(name, *args, **kwargs):
        if name.split(".")[0] == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'", name="onnx")
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(BoxwrightError, match=r"boxwright\[export\]"):
        export_onnx(detector, tmp_path / "detector.onnx")
