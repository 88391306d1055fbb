import pytest
import torch

from boxwright.errors import RecipeError
from boxwright.losses import GIoULoss
from boxwright.models.images import batch_images
from boxwright.recipes import build_criterion, build_detector, dump_recipe, load_recipe, recipe_names
from boxwright.recipes.parts import PartOf, named, type_name


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_and_survives_being_written(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    assert load_recipe(file) == recipe
    detector = build_detector(recipe, ["a", "b"], pretrained=False)
    assert detector.class_names == ("a", "b")


@pytest.mark.parametrize("name", ["retinanet-tiny", "atss-tiny", "tood-tiny", "nanodet-plus-tiny"])
def test_the_priors_of_every_level_cover_the_image(name):
    detector = build_detector(load_recipe(name), ["a"], pretrained=False).eval()
    with torch.no_grad():
        predictions, priors = detector.predict(torch.zeros(1, 3, 256, 384))
    assert len(priors) == predictions.logits.shape[1]
    for level, strides in zip(
        priors.levels, priors.strides.split([level.size for level in priors.levels]), strict=True
    ):
        assert (strides * level.height == 256).all()
        assert (strides * level.width == 384).all()


def test_ssd300_has_the_published_default_boxes():
    detector = build_detector(load_recipe("ssd"), ["a"], pretrained=False).eval()
    with torch.no_grad():
        predictions, priors = detector.predict(batch_images([torch.zeros(3, 200, 100)], detector.size).pixels)
    assert [(level.height, level.width, level.per_cell) for level in priors.levels] == [
        (38, 38, 4), (19, 19, 6), (10, 10, 6), (5, 5, 6), (3, 3, 4), (1, 1, 4)
    ]  # fmt: skip
    assert len(priors) == predictions.logits.shape[1] == 8732
    # the second level's first cell: 45, √(45 · 99), then 2:1 and 3:1 both ways (section 2.2)
    sides = priors.boxes[5776:5782, 2:] - priors.boxes[5776:5782, :2]
    long, longer = 45 * 2**0.5, 45 * 3**0.5
    expected = [
        (45, 45),
        (66.75, 66.75),
        (long, long / 2),
        (long / 2, long),
        (longer, longer / 3),
        (longer / 3, longer),
    ]
    torch.testing.assert_close(sides, torch.tensor(expected), rtol=1e-3, atol=1e-3)


def test_an_override_swaps_a_part_and_drops_its_old_fields():
    recipe = load_recipe("retinanet", ["criterion.box.eps=1e-6", "criterion.box.type=giou", "data.batch_size=4"])
    assert recipe.data.batch_size == 4
    assert isinstance(build_criterion(recipe).box, GIoULoss)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("criterion.box.type=gio", "criterion.box.type: unknown part 'gio'; did you mean 'giou'"),
        ("criterion.classification.gama=1", "unknown key 'gama'; did you mean 'gamma'"),
        ("train.pochs=3", r"train: unknown key 'pochs'.*; there is schedule\.epochs"),
        ("data.batchsize=3", "unknown key 'batchsize'; did you mean 'batch_size'"),
        ("data.batch_size=0", "data.batch_size: must be greater than 0, found 0"),
        ("schedule.milestones=[90]", r"milestones \(90,\) must be below epochs = 12"),
        ("data.batch_size.x=3", "data.batch_size is a value, not a section"),
        ("detector.backbone.levels=[3, 5]", r"levels: must count upwards one by one, .* got \[3, 5\]"),
        ("detector.backbone.levels=[5, 4, 3]", r"levels: must count upwards one by one, .* got \[5, 4, 3\]"),
        ("detector.backbone.levels=[]", r"levels: must be a list of at least 1, found \[\]"),
        ("data.size=0", r"data.size: must be greater than 0 or a list, found 0$"),
        ("criterion.box.beta=x", r"criterion.box.beta: must be a number, found 'x'$"),
        ("data=5", r"data: must be a section with keys of its own, found 5$"),
        ("train.precision=fp16", r"train.precision: must be 'auto', .* or '16-mixed', found 'fp16'$"),
        ("nonsense", "must read key=value"),
    ],
)
def test_a_wrong_override_is_answered_with_the_nearest_known(override, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe("retinanet", [override])


@pytest.mark.parametrize("key", ["assigner", "classification", "box"])
@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("yolov3-tiny", "darknet's rule matches and charges in one, .* such as retinanet have criterion.{}"),
        ("yolov2-tiny", "darknet's rule matches and charges in one, .* such as retinanet have criterion.{}"),
        ("faster-rcnn-tiny", r"each stage has its own: criterion.rpn.{0} and criterion.roi.{0}$"),
    ],
)
def test_where_the_parts_of_a_dense_criterion_are_in_other_systems(recipe, key, words):
    with pytest.raises(RecipeError, match=f"unknown key '{key}'.*; {words.format(key)}"):
        load_recipe(recipe, [f"criterion.{key}.type=atss"])


def test_an_unknown_recipe_is_answered_with_the_nearest_known():
    with pytest.raises(RecipeError, match="there is no recipe 'retinnet'; did you mean 'retinanet'"):
        load_recipe("retinnet")


@pytest.mark.parametrize("text", ["a: [", "just words", "- 1"])
def test_a_file_that_is_no_recipe(text, tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=r"broken\.yaml"):
        load_recipe(file)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GIoULoss", "giou"),
        ("SmoothL1Loss", "smooth-l1"),
        ("MaxIoUAssigner", "max-iou"),
        ("ATSSAssigner", "atss"),
        ("SimOTAAssigner", "simota"),
        ("TaskAlignedFocalLoss", "task-aligned-focal"),
        ("SSDAssigner", "ssd"),
        ("MPDIoULoss", "mpdiou"),
        ("APLoss", "ap"),
        ("GHMCLoss", "ghmc"),
        ("RankSortLoss", "rank-sort"),
        ("PPYOLOEHead", "ppyoloe"),
        ("YOLOv5Coder", "yolov5"),
    ],
)
def test_names_of_parts(name, expected):
    assert type_name(type(name, (), {})) == expected


def test_a_part_without_annotations_is_told_to_have_some():
    class PlainLoss:
        def __init__(self, gamma=2.0):
            self.gamma = gamma

    with pytest.raises(TypeError, match="PlainLoss: annotate 'gamma'"):
        PartOf(named([PlainLoss]))
