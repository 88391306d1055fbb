"""Loading what a run has left: from the folder, from the weight file alone, and with everything that can be wrong."""

import json

import pytest
import torch

import boxwright
from boxwright.engine.checkpoint import save_weights
from boxwright.engine.load import load
from boxwright.engine.run import Run
from boxwright.errors import RunError
from boxwright.recipes import build_detector, dump_recipe, load_recipe

CLASSES = ["cell", "platelet"]


@pytest.fixture(scope="module")
def trained():
    """A detector of the small recipe, as training would leave it."""
    recipe = load_recipe("retinanet-tiny")
    torch.manual_seed(0)
    return recipe, build_detector(recipe, CLASSES, pretrained=False).eval()


def save_run(folder, recipe, detector, names=("last",), **header):
    run = Run.create(folder, recipe, CLASSES, {})
    for name in names:
        header = {"recipe": dump_recipe(recipe), "classes": CLASSES, **header}
        save_weights(run.weights_file(name), detector.state_dict(), header)
    return run


@pytest.fixture(scope="module")
def image():
    return torch.randint(0, 256, (3, 120, 160), dtype=torch.uint8)


def test_run_folder_and_moved_weights_give_the_same_detections(trained, image, tmp_path):
    recipe, detector = trained
    run = save_run(tmp_path / "run", recipe, detector, ["best", "last"])
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(run.weights_file("best").read_bytes())
    with torch.no_grad():
        expected = detector([image])
        for source in (run.path, str(run.path), moved):
            loaded = boxwright.load(source)
            assert loaded.class_names == tuple(CLASSES)
            assert not loaded.training
            torch.testing.assert_close(loaded([image]).boxes, expected.boxes)


def test_the_best_checkpoint_is_preferred(trained, tmp_path):
    recipe, detector = trained
    run = save_run(tmp_path, recipe, detector, ["last"])
    state = {name: torch.zeros_like(value) for name, value in detector.state_dict().items()}
    save_weights(run.weights_file("best"), state, {"recipe": dump_recipe(recipe), "classes": CLASSES})
    assert all(not value.any() for value in load(run.path).state_dict().values())


def test_nothing_there(tmp_path):
    with pytest.raises(RunError, match="there is no run folder or weight file"):
        load(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"is not a run folder: it holds no recipe\.yaml"):
        load(tmp_path)


def test_run_without_checkpoint(trained, tmp_path):
    recipe, _ = trained
    Run.create(tmp_path, recipe, CLASSES, {})
    with pytest.raises(RunError, match="no checkpoint yet"):
        load(tmp_path)


def test_broken_and_foreign_files(trained, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"not at all")
    with pytest.raises(RunError, match=r"broken\.safetensors is not a readable .*: it is damaged, take another"):
        load(tmp_path / "broken.safetensors")
    (tmp_path / "model.onnx").write_bytes(b"of another kind")
    with pytest.raises(RunError, match=r"model\.onnx is not a readable .*: give a run folder, or a \.safetensors file"):
        load(tmp_path / "model.onnx")
    save_weights(tmp_path / "foreign.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(RunError, match="does not say which recipe"):
        load(tmp_path / "foreign.safetensors")


def test_weights_of_another_class_count_are_named(trained, tmp_path):
    recipe, detector = trained
    run = save_run(tmp_path, recipe, detector, classes=["cell"])
    with pytest.raises(RunError, match=r"does not fit the detector of its recipe: \S+ has shape \(\d+"):
        load(run.path)


def test_missing_weight_is_named(trained, tmp_path):
    recipe, detector = trained
    state = detector.state_dict()
    name = next(iter(state))
    del state[name]
    save_weights(tmp_path / "w.safetensors", state, {"recipe": dump_recipe(recipe), "classes": CLASSES})
    with pytest.raises(RunError, match=f"{name} is missing"):
        load(tmp_path / "w.safetensors")


def test_recipe_of_another_version(trained, tmp_path):
    _, detector = trained
    text = json.dumps({"name": "old", "future": 1})
    save_weights(tmp_path / "w.safetensors", detector.state_dict(), {"recipe": text, "classes": CLASSES})
    with pytest.raises(RunError, match=r"unknown key .future.*written by another version of boxwright"):
        load(tmp_path / "w.safetensors")
