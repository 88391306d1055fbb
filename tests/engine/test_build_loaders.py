"""What the loaders of a process hand out, as the recipe says."""

import pytest
import torch
from PIL import Image

from boxwright.data import open_dataset
from boxwright.data.synth import write_synthetic
from boxwright.engine.train import build_loaders
from boxwright.recipes import load_recipe


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Photographs many times larger than the recipe's size, which a JPEG is decoded smaller for."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_synthetic(folder, train=9, val=3, size=256)
    for file in folder.rglob("*.png"):
        with Image.open(file) as image:
            image.save(file, format="JPEG")
    return open_dataset(folder)


def loaders(fabric, index, *changes):
    small = ("data.size=32", "data.batch_size=4", "data.workers=0")
    return build_loaders(fabric, load_recipe("retinanet-tiny", [*small, *changes]), index)


def test_order_and_augmentation_follow_the_seed(fabric, index):
    one, same, other = (loaders(fabric, index, f"train.seed={seed}")[0] for seed in (0, 0, 1))
    ids, again, different = ([batch.image_ids for batch in training.epoch(2)] for training in (one, same, other))
    assert ids == again != different
    for position in range(3):
        image = one.dataset[2, position].image
        assert torch.equal(image, same.dataset[2, position].image)
        assert not torch.equal(image, other.dataset[2, position].image)


def test_a_micro_batch_is_its_share_and_validation_sees_every_image_as_it_is(fabric, index):
    training, validation = loaders(fabric, index, "train.accumulate=2")
    assert [len(batch) for batch in training.epoch(0)] == [2, 2, 2, 2]
    first, second = ([*validation.epoch(epoch)] for epoch in (0, 1))
    assert [image_id for batch in first for image_id in batch.image_ids] == [r.image_id for r in index.split("val")]
    for one, other in zip(first, second, strict=True):
        assert one.images.shape[1:] == (3, 32, 32)
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize("mosaic", [0, 1])
def test_short_and_long_side(fabric, index, mosaic):
    training, validation = loaders(fabric, index, "data.size=[48,64]", f"data.mix.mosaic={mosaic}")
    for loader in (training, validation):
        for batch in loader:
            assert (batch.sizes.amin(dim=1) <= 48).all()
            assert (batch.sizes.amax(dim=1) <= 64).all()
            assert [side % 32 for side in batch.images.shape[-2:]] == [0, 0]
    assert (batch.sizes == 48).all()
