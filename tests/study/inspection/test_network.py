"""What a run's network says before and after its training."""

import json
import shutil

import pytest
import torch

from boxwright.data.index import open_dataset
from boxwright.errors import DataError, RecipeError, RunError
from boxwright.recipes import build_detector, load_recipe
from boxwright.study import inspect_data
from boxwright.study.inspection.inputs import Inputs
from boxwright.study.inspection.network import Network, initial_detector, pixels_of


@pytest.fixture(scope="module")
def network(tood_run, data):
    return Network.of_run(tood_run.path, data)


def test_the_weights_before_are_those_that_the_training_began_with(train_small, data):
    run = train_small("gfl-tiny", "schedule.epochs=1", "optimizer.lr=1e-12", "optimizer.weight_decay=0")
    network = Network.of_run(run.path, data)
    assert [stage.name for stage in network.stages] == ["after training", "before training"]
    before, after = (dict(stage.detector.named_parameters()) for stage in (network.before, network.after))
    for name, weights in after.items():
        torch.testing.assert_close(before[name], weights, atol=1e-8, rtol=1e-6, msg=name)


def test_building_them_leaves_the_random_numbers_of_others_alone(network):
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    initial_detector(network.recipe, ["a", "b"])
    assert torch.equal(torch.rand(1), drawn)


def test_a_training_shows(network):
    before, after = (dict(stage.detector.named_parameters()) for stage in (network.before, network.after))
    assert sum(not torch.equal(before[name], weights) for name, weights in after.items()) > len(after) / 2


def test_predictions_are_those_of_an_evaluation_and_leave_the_detector_alone(network, data):
    pixels = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    state = {name: value.clone() for name, value in network.after.detector.state_dict().items()}
    outputs = network.after.predict(pixels)
    detector = network.after.detector
    with torch.no_grad():
        expected, priors = detector.eval().predict(pixels)
    assert torch.equal(outputs.predictions.logits, expected.logits)
    torch.testing.assert_close(outputs.predictions.boxes, network.criterion.coder.decode(priors, expected.params))
    assert torch.equal(outputs.for_assigner.logits, expected.logits)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not detector.training


def test_a_guide_decides(train_small, data):
    run = train_small("nanodet-plus-tiny", "schedule.epochs=1")
    network = Network.of_run(run.path, data)
    outputs = network.after.predict(torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8))
    assert torch.equal(outputs.for_assigner.logits, outputs.predictions.extras["guide_logits"])
    assert not torch.equal(outputs.for_assigner.logits, outputs.predictions.logits)
    assert outputs.for_assigner.boxes.shape == outputs.predictions.boxes.shape


def test_the_criterion_is_that_of_the_last_epochs(network):
    assert network.criterion.assigner == load_recipe("tood-tiny").criterion.assigner.build()


def test_the_criterion_goes_on_with_the_running_values_of_the_run(train_small, data):
    run = train_small("gfl-tiny", "schedule.epochs=1", "criterion.box.type=wise-iou")
    network = Network.of_run(run.path, data)
    saved = run.weights()[0]["criterion.box.mean"]
    assert (
        network.criterion.box.mean
        == saved
        != load_recipe("gfl-tiny", ["criterion.box.type=wise-iou"]).criterion.box.build().mean
    )


def test_images_come_with_their_batches(data):
    records = data.split("train")
    inputs = Inputs.of(records, 128)
    lay = build_detector(load_recipe("tood-tiny", ["data.size=128"]), data.class_names, pretrained=False).priors
    for batch, pixels in pixels_of(records, inputs.batches(lay, most=3), 128):
        assert len(pixels) == len(batch.frames)
        for frame, image in zip(batch.frames, pixels, strict=True):
            assert int(image[0, 0, 0]) == pytest.approx(40 * frame.record, abs=1)  # the colour of that image


def test_without_a_run_folder_it_is_said(tmp_path, data):
    with pytest.raises(RunError, match="no run folder"):
        Network.of_run(tmp_path / "none", data)


def test_unknown_classes_are_refused_and_known_ones_found_by_name(network, data_path, tmp_path):
    root = tmp_path / "other"
    shutil.copytree(data_path, root)
    for name in ("train", "val"):
        file = root / "annotations" / f"instances_{name}.json"
        content = json.loads(file.read_text())
        content["categories"] = [{"id": 2, "name": "platelet"}]
        content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] == 2]
        file.write_text(json.dumps(content))
    fewer = open_dataset(root, cache=False)
    found = inspect_data(fewer, network.recipe, network=network, assigners=["atss"], sweep=False, show=1)
    assert found["data"]["classes"] == ["cell", "platelet"]
    assert {object_["class"] for object_ in found["images"][0]["objects"]} == {1}
    content["categories"] = [{"id": 2, "name": "spore"}]
    file.write_text(json.dumps(content))
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="spore"):
        inspect_data(open_dataset(root, cache=False), network.recipe, network=network)


def test_an_image_that_cannot_be_read_is_named(network, data_path, tmp_path):
    root = tmp_path / "broken"
    shutil.copytree(data_path, root)
    (root / "images" / "b.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"b\.png"):
        inspect_data(open_dataset(root, cache=False), network.recipe, network=network, sweep=False)


@pytest.mark.parametrize(("recipe", "reason"), [("yolov2-tiny", "no assigner"), ("faster-rcnn-tiny", "one stage")])
def test_recipes_without_one_assigner_are_refused(train_small, data, recipe, reason):
    run = train_small(recipe, "schedule.epochs=1")
    with pytest.raises(RecipeError, match=reason):
        Network.of_run(run.path, data)
