import re

import pytest

from boxwright.errors import RecipeError
from boxwright.recipes import build_criterion, build_detector, load_recipe
from boxwright.recipes.compatibility import remarks

GUIDE = "detector.guide={head: {type: retina, convs: 1, channels: 64}}"


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        (
            "retinanet-tiny",
            ["criterion.distribution.type=distribution-focal"],
            "distribution-focal compares the distributions of the integral coder, got delta",
        ),
        (
            "retinanet-tiny",
            [
                "detector.head.reg_max=16",
                "detector.coder={type: fine-grained, reg_max: 16}",
                "criterion.distribution.type=fine-grained-localization",
            ],
            r"distribution: bins=32, up=0\.5, scale=4\.0 must be the coder's reg_max=16",
        ),
        (
            "retinanet-tiny",
            ["detector.coder.type=fine-grained", "detector.head.reg_max=32", "criterion.box.type=l1"],
            "box: l1 compares 4 encoded parameters, which the fine-grained coder does not have",
        ),
        ("retinanet-tiny", ["criterion.quality.type=sigmoid-cross-entropy"], "the retina head has no quality branch"),
        ("retinanet-tiny", ["detector.coder.type=integral"], "integral does not fit the retina head"),
        ("tood-tiny", ["criterion.classification.type=softmax-focal"], "its scores are products of sigmoids"),
        (
            "retinanet-tiny",
            [
                "criterion.classification.type=softmax-focal",
                "criterion.first.epochs=1",
                "criterion.first.assigner.type=atss",
                "criterion.first.classification.type=sigmoid-focal",
                "criterion.first.box.type=giou",
            ],
            "softmax-focal and sigmoid-focal cannot follow each other",
        ),
        ("gflv2-tiny", ["criterion.classification.type=softmax-focal"], "its scores are products of sigmoids"),
        (
            "retinanet-tiny",
            ["criterion.classification={type: softmax-focal, background: first}"],
            "a detector has background last, got first",
        ),
        (
            "atss-tiny",
            ["criterion.quality.type=softmax-cross-entropy"],
            "quality: softmax-cross-entropy compares classes, but a quality is one number per prior",
        ),
        *(
            ("atss-tiny", [f"criterion.quality.type={name}"], f"quality: {name} takes no weight, and a quality is")
            for name in ("ap", "rank-sort", "alrp")
        ),
        ("retinanet-tiny", ["criterion.assigner.type=dual"], "assigner: dual does not fit"),
        (
            "retinanet-tiny",
            ["criterion.classification.type=alrp", "criterion.balance=value"],
            "alrp balances .* itself",
        ),
        (
            "nanodet-plus-tiny",
            ["criterion.classification.type=alrp", "criterion.distribution=null"],
            "alrp ranks the scores of one head, and the guide is a second one",
        ),
        ("nanodet-plus-tiny", ["criterion.classification.type=softmax-focal"], "which the guide does not have"),
        ("atss-tiny", [GUIDE], "quality: the guide has no quality branch"),
        (
            "retinanet-tiny",
            [GUIDE, "detector.head.variance=true", "criterion.box.type=gaussian"],
            "gaussian needs variances, which the guide does not predict",
        ),
        (
            "retinanet-tiny",
            ["criterion.classification.class_weight=equal"],
            r"criterion\.classification: class_weight must",
        ),
        ("gfl-tiny", ["detector.coder.type=delta"], "delta does not fit the gfl head"),
        ("gfl-tiny", ["detector.head.reg_max=16"], r"detector\.coder\.reg_max is 8 but detector\.head\.reg_max is 16"),
        ("gfl-tiny", ["criterion.box.type=smooth-l1"], "box: smooth-l1 compares 4 encoded parameters"),
        ("gfl-tiny", ["criterion.classification.from_logits=false"], "gives logits, not probabilities"),
        ("atss-tiny", ["criterion.quality=null"], "has a quality branch, which needs a loss"),
        ("tood-tiny", ["detector.coder.type=delta"], "the tood head predicts distances"),
        ("tood-tiny", ["detector.priors.offset=0.0"], r"head\.offset is 0\.5 but detector\.priors\.offset is 0\.0"),
        ("tood-tiny", ["criterion.first.assigner.type=proposal"], r"criterion\.first\.assigner: proposal does not fit"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_the_reason(recipe, overrides, words):
    with pytest.raises(RecipeError, match=words):
        build_criterion(load_recipe(recipe, overrides))


def test_the_network_refuses_too():
    priors = "detector.priors.type=octave-anchors"
    with pytest.raises(RecipeError, match=r"detector\.head: .*priors_per_cell=9"):
        build_detector(load_recipe("gfl-tiny", [priors]), ["a"])


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("gfl-tiny", ["classification.type=ap"], "criterion.soft_target=iou does not reach the classes, as ap ranks"),
        ("tood-tiny", ["classification.type=alrp"], "criterion.soft_target=assignment does not reach .* as alrp"),
        ("ap-loss-tiny", [], None),
        ("rank-sort-tiny", [], None),
        ("gfl-tiny", ["classification.type=ap", "soft_target=hard"], None),
        ("faster-rcnn-tiny", [], None),
        ("yolov3-tiny", [], None),
    ],
)
def test_a_soft_target_that_a_loss_cannot_use_is_remarked_on(recipe, overrides, words):
    found = [*remarks(load_recipe(recipe, [f"criterion.{change}" for change in overrides]))]
    assert len(found) == (words is not None)
    assert all(re.search(words, remark) for remark in found)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("retinanet-tiny", None),
        ("ssd-tiny", None),
        ("faster-rcnn-tiny", None),
        ("yolov3-tiny", None),
        ("tood-tiny", r"criterion\.first sums box weights over \(weigh_boxes=quality\)$"),
        ("gfl-tiny", r"criterion sums box weights over \(weigh_boxes=score\)$"),
        ("nanodet-plus-tiny", r"criterion sums box weights over \(weigh_boxes=score\)$"),
        ("retinanet-ghm-tiny", r"criterion counts gradients in \(ghm\)$"),
        ("rank-sort-tiny", r"criterion ranks \(rank-sort\) and sums box weights over"),
    ],
)
def test_micro_batches_that_are_not_one_large_batch_are_remarked_on(recipe, words):
    assert not [*remarks(load_recipe(recipe, ["data.batch_size=8"]))]
    found = [*remarks(load_recipe(recipe, ["data.batch_size=8", "train.accumulate=4"]))]
    assert len(found) == (words is not None)
    assert all(
        re.search(r"accumulate=4 is not quite one batch of data\.batch_size=8: .*" + words, line) for line in found
    )
