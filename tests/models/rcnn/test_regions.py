import torch
from torch.testing import assert_close
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from boxwright.models import TwoLayerHead
from boxwright.models.rcnn.regions import pool_regions


def _boxes(images, count, high=256.0):
    corner = torch.rand(images, count, 2) * high / 2
    return torch.cat([corner, corner + 4 + torch.rand(images, count, 2) * high / 2], dim=-1)


def test_levels_are_those_of_torchvision():
    torch.manual_seed(0)
    boxes = _boxes(2, 50, 1200.0)
    levels = TwoLayerHead([1], (2, 3, 4, 5), 3)._level(boxes)
    assert torch.equal(levels.flatten(), LevelMapper(2, 5)([*boxes]))
    assert levels.unique().tolist() == [0, 1, 2, 3]


def test_every_region_is_read_from_its_own_level_and_image():
    torch.manual_seed(0)
    features = [torch.rand(2, 3, 32, 32), torch.rand(2, 3, 16, 16)]
    boxes, level = _boxes(2, 6), torch.randint(0, 2, (2, 6))
    pooled = pool_regions(features, (8.0, 16.0), boxes, level, 5, 2).view(2, 6, 3, 5, 5)
    for image in range(2):
        for row in range(6):
            n = int(level[image, row])
            alone = roi_align(features[n][image : image + 1], [boxes[image, row][None]], 5, 1 / (8 * 2**n), 2, True)
            assert_close(pooled[image, row], alone[0])


def test_outputs():
    features, boxes = [torch.rand(2, 8, 16, 16), torch.rand(2, 8, 8, 8)], _boxes(2, 5)
    head = TwoLayerHead([8, 8], (3, 4), 3, channels=16, pool_size=3)
    said = head(features, boxes)
    assert said.logits.shape == (2, 5, 3)
    assert said.params.shape == (2, 5, 12)
    assert said.extras["background"].shape == (2, 5, 1)
    said = TwoLayerHead([8], (3,), 3, background=False, channels=16, pool_size=3, class_agnostic=True)(
        features[:1], boxes
    )
    assert said.params.shape == (2, 5, 4)
    assert said.extras == {}
    assert_close(said.scores().mean(), torch.tensor(0.01), atol=2e-3, rtol=0)


def test_padding_has_finite_features():
    said = TwoLayerHead([8], (4,), 2, channels=16, pool_size=3)([torch.rand(1, 8, 4, 4)], torch.zeros(1, 3, 4))
    assert said.logits.isfinite().all()
