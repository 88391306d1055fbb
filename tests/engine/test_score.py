"""A detector is evaluated as its run did it."""

import pytest

from boxwright.data import open_dataset
from boxwright.engine import score
from boxwright.engine.checkpoint import save_weights
from boxwright.recipes import build_detector, dump_recipe, load_recipe


@pytest.mark.parametrize(
    ("size", "shape", "trained", "used"),
    [
        ("80", (80, 80), "bf16-mixed", "bf16-mixed"),
        ("[48,60]", (64, 64), "16-mixed", "32-true"),  # which a CPU does not have
    ],
)
def test_images_and_precision_are_those_of_the_recipe(tmp_path, scenes, monkeypatch, size, shape, trained, used):
    changes = [f"data.size={size}", "data.workers=0", "data.batch_size=3", f"train.precision={trained}"]
    recipe, index = load_recipe("retinanet-tiny", changes), open_dataset(scenes)
    detector = build_detector(recipe, index.class_names[::-1], pretrained=False)
    header = {"recipe": dump_recipe(recipe), "classes": detector.class_names}
    save_weights(tmp_path / "a.safetensors", detector.state_dict(), header)
    seen = {}
    monkeypatch.setattr(score, "evaluate", lambda detector, loader, truth, **rest: seen.update(rest, loader=loader))

    score.evaluate_source(tmp_path / "a.safetensors", index)

    batches = [*seen["loader"]]
    assert [len(batch) for batch in batches] == [3, 1]
    assert all(batch.images.shape[-2:] == shape for batch in batches)
    assert seen["precision"] == used
    assert seen["category_ids"] == [*index.category_ids[::-1]]
