import torch

from boxwright.models.heads import ATSSHead


def test_quality_and_scales_per_level():
    torch.manual_seed(0)
    head = ATSSHead([8, 8], num_classes=3, priors_per_cell=2, convs=1, channels=16)
    features = [torch.randn(2, 8, 4, 6), torch.randn(2, 8, 2, 3)]
    before = head(features)
    assert before.logits.shape == (2, 60, 3)
    assert before.params.shape == (2, 60, 4)
    assert before.extras["quality"].shape == (2, 60, 1)
    with torch.no_grad():
        head.scales[1] = 3.0
    after = head(features)
    torch.testing.assert_close(after.params[:, :48], before.params[:, :48])
    torch.testing.assert_close(after.params[:, 48:], 3 * before.params[:, 48:])
    torch.testing.assert_close(after.extras["quality"], before.extras["quality"])


def test_the_box_tower_feeds_the_quality():
    head = ATSSHead([8], num_classes=1, convs=1, channels=16)
    head([torch.randn(1, 8, 4, 4)]).extras["quality"].sum().backward()
    assert all(parameter.grad is not None for parameter in head.box_tower.parameters())
    assert all(parameter.grad is None for parameter in head.class_tower.parameters())
