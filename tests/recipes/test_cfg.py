import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwright.errors import RecipeError
from boxwright.models.darknet import layout
from boxwright.recipes import build_detector, dump_recipe, load_recipe, parse_recipe

NET = """[net]
batch=64
subdivisions=16
width=64
height=64
momentum=0.8
decay=0.0004
saturation = 1.5
learning_rate=0.002
burn_in=500
max_batches=500200
policy=steps
steps=400000,450000
scales=.2,.2
"""


def cfg(tmp_path, net=NET, name="yolov3", extra=""):
    file = tmp_path / "mine.cfg"
    rest = layout(name, classes=2, size=64, width=0.05, depth=0.1).partition("\n\n")[2]
    file.write_text(net + rest.replace("ignore_thresh=0.7", f"ignore_thresh=0.6\n{extra}"))
    return file


def test_hyper_parameters_become_a_recipe(tmp_path):
    recipe = load_recipe(cfg(tmp_path, extra="random=1\njitter=.2"), ["data.workers=0"])
    assert recipe.name == "mine"
    assert (recipe.data.size, recipe.data.batch_size, recipe.data.workers) == (64, 64, 0)
    assert recipe.train.accumulate == 16
    assert (recipe.optimizer.lr, recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.002, 0.8, 0.0004)
    schedule = recipe.schedule
    assert (schedule.epochs, schedule.milestones, schedule.gamma, schedule.warmup_steps) == (273, (218, 246), 0.2, 500)
    assert (recipe.criterion.type, recipe.criterion.ignore_thresh) == ("yolo", 0.6)
    assert recipe.detector.multi_scale == (320, 608)
    assert recipe.data.augment.scale_jitter == (0.8, 1.25)
    assert recipe.data.augment.photometric == 1
    assert build_detector(recipe, ["a", "b"]).priors.strides == (8, 16, 32)
    assert parse_recipe(dump_recipe(recipe), "itself") == recipe


def test_adam_becomes_adamw(tmp_path):
    optimizer = load_recipe(cfg(tmp_path, net=NET.replace("momentum=0.8", "adam=1\nB1=.8"))).optimizer
    assert (optimizer.type, optimizer.betas, optimizer.lr) == ("adamw", (0.8, 0.999), 0.002)


def test_settings_of_a_region_layer_become_those_of_its_criterion(tmp_path):
    recipe = load_recipe(cfg(tmp_path, name="yolov2"))
    criterion = recipe.criterion
    assert (criterion.type, criterion.object_scale, criterion.thresh, criterion.softmax) == ("region", 5, 0.6, True)
    assert build_detector(recipe, ["a", "b"]).criterion.loss.hyper["rescore"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("policy=steps", "policy=poly", r"line 12, \[net\]: policy must be steps or constant, found 'poly'"),
        ("scales=.2,.2", "scales=.2,.1", r"line 14, \[net\]: scales must all be the same and above 0"),
        ("width=64", "width=96", r"line 1, \[net\]: a recipe's images are square .* found width=96, height=64"),
        ("batch=64", "batch=0", r"line 2, \[net\]: batch must lie in 1.."),
        ("batch=64", "batch=65", r"line 3, \[net\]: subdivisions must divide batch=65, found 16"),
        ("steps=400000,450000", "steps=400000", r"line 14, \[net\]: 1 steps need as many scales, found 2"),
        ("momentum=0.8", "channels=1", r"line 6, \[net\]: images have 3 channels here, found 1"),
    ],
)
def test_what_a_recipe_cannot_say_is_named(tmp_path, old, new, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe(cfg(tmp_path, net=NET.replace(old, new)))


def test_layers_that_differ_in_their_loss_and_classifiers_are_refused(tmp_path):
    file = cfg(tmp_path)
    file.write_text(file.read_text().replace("ignore_thresh=0.6", "ignore_thresh=0.5", 1))
    with pytest.raises(RecipeError, match=r"\[yolo\]: all layers must share their loss"):
        load_recipe(file)
    file.write_text(NET + "[avgpool]\n[softmax]\n")
    with pytest.raises(RecipeError, match="it classifies whole images"):
        load_recipe(file)


VALUES = ["", "-1", "0", "2", "0.5", "1e9", "1e-300", "nan", "inf", "9" * 30, "1,2,3", ",", "x", "１", "steps"]


@settings(max_examples=50)
@given(
    st.dictionaries(st.sampled_from([line.partition("=")[0] for line in NET.splitlines()[1:]]), st.sampled_from(VALUES))
)
def test_whatever_stands_in_net_gives_a_recipe_or_an_error_that_names_it(changes):
    lines = (line.partition("=") for line in NET.splitlines())
    net = "\n".join(key + sign + changes.get(key, value) for key, sign, value in lines) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        file = cfg(Path(folder), net=net)
        try:
            recipe = load_recipe(file)
        except RecipeError:
            with pytest.raises(RecipeError, match=r"\[net\]|key=value"):
                load_recipe(file)
        else:
            assert parse_recipe(dump_recipe(recipe), "itself") == recipe
