import pytest

from boxwright.assigners import MaxIoUAssigner, RandomSampler, RPNAssigner
from boxwright.boxes import DeltaCoder
from boxwright.errors import RecipeError
from boxwright.losses import GIoULoss, SigmaSmoothL1Loss, SoftmaxCrossEntropyLoss
from boxwright.models import Bare, TwoStageDetector
from boxwright.recipes import build_criterion, build_detector, load_recipe
from boxwright.recipes.load import dump_recipe, parse_recipe


def test_the_parts_are_those_of_the_recipe():
    detector = build_detector(load_recipe("faster-rcnn-vgg16"), ["a", "b"], pretrained=False)
    assert isinstance(detector, TwoStageDetector)
    assert isinstance(detector.neck, Bare)
    criterion = detector.criterion
    assert criterion.rpn.assigner == RPNAssigner()
    assert isinstance(criterion.rpn.classification, SoftmaxCrossEntropyLoss)
    assert criterion.rpn.box.hyper == {"sigma": 3.0}
    assert criterion.roi.assigner.count == 128
    assert criterion.coder == DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2))
    assert detector.priors.strides == (16.0,)
    assert detector.priors.shapes[0][0] == (184.0, 96.0)
    assert detector.regions.box_params.out_features == 8
    names = [name for name, parameter in detector.backbone.named_parameters() if not parameter.requires_grad]
    assert len(names) == 8  # weights and biases of conv1_1, conv1_2, conv2_1, conv2_2


def test_the_pyramid_proposes_on_five_levels_and_reads_regions_from_four():
    detector = build_detector(load_recipe("faster-rcnn"), ["a"], pretrained=False)
    assert detector.priors.strides == (4, 8, 16, 32, 64)
    sides = [(width * height) ** 0.5 for ((width, height), *_) in detector.priors.shapes]
    assert sides == pytest.approx([32, 64, 128, 256, 512])
    assert detector.regions.levels == (2, 3, 4, 5)


def test_parts_of_either_stage_are_swapped():
    overrides = [
        "criterion.rpn.assigner.type=max-iou",
        "criterion.rpn.assigner.positive_iou=0.7",
        "criterion.rpn.sampler.type=random",
        "criterion.roi.box.type=giou",
        "criterion.roi.box_weight=10",
    ]
    criterion = build_criterion(load_recipe("faster-rcnn-tiny", overrides))
    assert criterion.rpn.assigner == MaxIoUAssigner(positive_iou=0.7)
    assert criterion.rpn.draw == RandomSampler()
    assert isinstance(criterion.rpn.box, SigmaSmoothL1Loss)
    assert isinstance(criterion.roi.box, GIoULoss)
    assert criterion.roi.box_weight == 10


def test_it_survives_being_written():
    recipe = load_recipe("faster-rcnn-tiny", ["schedule.regime=alternating"])
    assert parse_recipe(dump_recipe(recipe), "here") == recipe
    assert recipe.schedule.regime == "alternating"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["criterion.roi.assigner.type=atss"],
            r"criterion\.roi\.assigner: atss needs priors on a grid, or predictions",
        ),
        (["criterion.rpn.assigner.type=proposal"], r"criterion\.rpn\.assigner: proposal does not match anchors"),
        (["criterion.rpn.classification.type=ap"], r"criterion\.rpn\.classification: ap ranks all priors of a batch"),
        (["criterion.rpn.sampler.type=random"], r"criterion\.rpn\.sampler: the rpn assigner samples already"),
        (["criterion.rpn.box.type=gaussian"], r"criterion\.rpn\.box: gaussian needs a head that predicts variances"),
        (["criterion.roi.box.type=gaussian"], r"criterion\.roi\.box: gaussian needs a head that predicts variances"),
        (["detector.head.type=atss"], r"detector\.head: the atss head has a quality branch"),
        (["detector.head.type=gfl"], r"detector\.coder: delta does not fit the gfl head"),
        (["detector.region_coder.type=distance"], r"detector\.region_coder: regions are relative to their proposal"),
        (["criterion.roi.classification.type=quality-focal", "criterion.roi.soft_target=score"], "soft_target"),
        (["criterion.giou=1"], "criterion: unknown key 'giou'; .*Known: roi, rpn"),
        (["detector.type=three-stage"], r"detector\.type: unknown network 'three-stage'; did you mean 'two-stage'"),
        (["schedule.regime=both"], r"schedule\.regime: must be 'joint' or 'alternating', found 'both'"),
    ],
)
def test_what_does_not_fit_is_refused(overrides, words):
    with pytest.raises(RecipeError, match=words):
        build_detector(load_recipe("faster-rcnn-tiny", overrides), ["a"], pretrained=False)


def test_a_dense_recipe_has_no_regimes():
    with pytest.raises(RecipeError, match="schedule: unknown key 'regime'"):
        load_recipe("retinanet-tiny", ["schedule.regime=alternating"])
