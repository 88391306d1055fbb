import pytest

from boxwright.errors import RecipeError
from boxwright.recipes import dump_recipe, load_recipe


def _write(folder, name, text):
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return file


def test_a_recipe_says_only_what_differs_from_its_base(tmp_path):
    file = _write(tmp_path, "mine", "base: atss-tiny\nname: mine\ncriterion: {box: {type: ciou}, box_weight: 1.0}\n")
    mine, base = load_recipe(file), load_recipe("atss-tiny")
    assert mine.criterion.box.type == "ciou"
    assert mine.criterion.box_weight == 1.0
    assert mine.criterion.quality == base.criterion.quality
    assert mine.detector == base.detector
    assert "base" not in dump_recipe(mine)


def test_a_part_of_the_same_type_keeps_its_other_fields_and_another_type_drops_them(tmp_path):
    same = load_recipe(_write(tmp_path, "same", "base: retinanet-tiny\ndetector: {neck: {channels: 32}}\n"))
    assert (same.detector.neck.channels, same.detector.neck.norm) == (32, "bn")
    other = load_recipe(_write(tmp_path, "other", "base: retinanet-tiny\ndetector: {neck: {type: ghost-pan}}\n"))
    assert other.detector.neck.channels == 96


def test_overrides_come_after_the_base():
    recipe = load_recipe("gflv2-tiny", ["detector.head.quality=false"])
    assert recipe.detector == load_recipe("gfl-tiny").detector.model_copy(update={"head": recipe.detector.head})


def test_a_base_that_does_not_end_or_is_unknown(tmp_path):
    file = tmp_path / "a.yaml"
    _write(tmp_path, "a", f"base: {tmp_path / 'b.yaml'}\n")
    _write(tmp_path, "b", f"base: {file}\n")
    with pytest.raises(RecipeError, match="not built on this one"):
        load_recipe(file)
    with pytest.raises(RecipeError, match=r"not built on this one, got \[1\]"):
        load_recipe(_write(tmp_path, "c", "base: [1]\n"))
    with pytest.raises(RecipeError, match="there is no recipe 'retinanet-tin'; did you mean 'retinanet-tiny'"):
        load_recipe(_write(tmp_path, "d", "base: retinanet-tin\n"))


DENSE = "retinanet-ghm retinanet-cb ap-loss alrp rank-sort atss gfl gflv2 tood nanodet nanodet-plus"


@pytest.mark.parametrize("name", DENSE.split())
def test_tiny_recipes_share_what_makes_them_comparable(name):
    tiny, reference = load_recipe(f"{name}-tiny"), load_recipe("retinanet-tiny")
    for section in ("data", "optimizer", "schedule", "train"):
        assert getattr(tiny, section) == getattr(reference, section), section
    assert tiny.detector.backbone == reference.detector.backbone
