import pytest
import torch

from boxwright.data.records import ImageRecord
from boxwright.engine.anchors import settle_anchors
from boxwright.errors import RecipeError
from boxwright.models.darknet import layout, write_weights
from boxwright.models.darknet.weights import WeightsHeader
from boxwright.recipes import build_detector, dump_recipe, load_recipe, recipe_names

GRID = [name for name in recipe_names() if "yolo" in name]
NARROW = ["data.size=64", "detector.width=0.05", "detector.depth=0.1"]


def records(count):
    side = torch.arange(1.0, count + 1) * 10
    boxes = torch.stack([torch.zeros(count), torch.zeros(count), side, 2 * side], dim=1)
    crowd = torch.zeros(count, dtype=torch.bool)
    return [ImageRecord("a.jpg", 1, 1280, 640, boxes, torch.zeros(count, dtype=torch.int64), crowd, boxes[:, 2] ** 2)]


def test_the_recipes_are_there():
    darknet = ["darknet-yolov2-tiny", "darknet-yolov3-spp", "darknet-yolov3-tiny"]
    assert [*darknet, "yolov2", "yolov2-tiny", "yolov3", "yolov3-tiny"] == GRID


def test_fitted_anchors_travel_with_the_recipe():
    recipe = load_recipe("yolov2-tiny", NARROW)
    settled = settle_anchors(recipe, records(5))
    # five objects and five anchors: at 64 px a side is a twentieth
    assert settled.detector.anchors == tuple((side / 2, float(side)) for side in range(1, 6))
    again = load_recipe("yolov2-tiny", [f"detector.anchors={[list(a) for a in settled.detector.anchors]}", *NARROW])
    assert again == settled
    detector = build_detector(again, ["a"])
    assert [*detector.priors.shapes[0]] == [pytest.approx(anchor) for anchor in settled.detector.anchors]
    assert settle_anchors(again, []) is again
    with pytest.raises(RecipeError, match=r"detector\.anchors: fit: count must be between 1 and the 4 objects"):
        settle_anchors(recipe, records(4))


def test_levels_share_the_anchors_by_size():
    anchors = [[n, n] for n in range(1, 10)]
    detector = build_detector(load_recipe("yolov3-tiny", [f"detector.anchors={anchors}", *NARROW]), ["a"])
    assert [[side for side, _ in level] for level in detector.priors.shapes] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert detector.priors.strides == (8, 16, 32)


def test_a_recipe_may_hold_a_whole_cfg_and_weights(tmp_path):
    text = layout("yolov2-tiny", classes=2, size=64, width=0.05)
    source = build_detector(load_recipe("darknet-yolov2-tiny", NARROW), ["a", "b"])
    write_weights(source.backbone, tmp_path / "a.weights", WeightsHeader(seen=77))
    config = {"type": "darknet", "cfg": text, "weights": str(tmp_path / "a.weights")}
    recipe = load_recipe("yolov2-tiny")
    recipe = recipe.model_copy(update={"detector": type(recipe.detector)(**config)})
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    detector = build_detector(load_recipe(tmp_path / "recipe.yaml"), ["a", "b"])
    assert detector.criterion.loss.seen == 77
    for name, tensor in source.backbone.state_dict().items():
        assert torch.equal(tensor, detector.backbone.state_dict()[name]), name


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("yolov3", ["detector.layout=yolov9"], r"detector\.layout: must be 'yolov2'"),
        ("yolov3", ["detector.layout=null"], "a darknet network is a layout or the text of a cfg: give one of them"),
        ("yolov3", ["detector.layout=null", "detector.cfg=x", "detector.width=2"], "belong to a layout"),
        ("yolov3", ["detector.multi_scale=[64,40]"], r"multi_scale must be \(low, high\)"),
        ("yolov3", ["detector.layouts=4"], "unknown key 'layouts'; did you mean 'layout'"),
        ("yolov3", ["criterion.type=giou"], r"criterion\.type: unknown part 'giou'"),
        ("yolov3", ["criterion.type=region"], r"criterion\.type is region, which trains \[region\] layers .* has yolo"),
        ("yolov3", ["data.size=[64,64]"], r"data\.size must be one number for a darknet network"),
        ("yolov3", ["data.size=100"], "size must be a multiple of 32, got 100"),
        ("yolov3", ["detector.anchors=[[1,1]]"], "yolov3 detects on 3 scales, which 1 anchors do not divide by"),
        ("yolov2", ["criterion.softmax=false"], r"criterion\.softmax must be True as in the network"),
    ],
)
def test_what_does_not_fit_is_refused(recipe, overrides, words):
    with pytest.raises(RecipeError, match=words):
        build_detector(load_recipe(recipe, overrides), ["a"], pretrained=False)


@pytest.mark.parametrize("name", ["yolov2-tiny", "yolov3-tiny"])
def test_training_from_scratch_starts_at_the_prior_probability(name, tmp_path):
    recipe = load_recipe(name, [*NARROW, "detector.prior_probability=0.02"])
    detector = build_detector(recipe, ["a", "b"]).eval()
    objectness = detector.predict(torch.zeros(1, 3, 64, 64))[0].extras["quality"].sigmoid()
    torch.testing.assert_close(objectness, torch.full_like(objectness, 0.02))
    write_weights(detector.backbone, tmp_path / "a.weights")
    trained = load_recipe(name, [*NARROW, f"detector.weights={tmp_path / 'a.weights'}"])
    loaded = build_detector(trained, ["a", "b"]).eval()  # whose own start is another
    torch.testing.assert_close(loaded.predict(torch.zeros(1, 3, 64, 64))[0].extras["quality"].sigmoid(), objectness)
