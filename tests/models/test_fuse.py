import pytest
import torch
from torch import nn

from boxwright.models.fuse import fold_batch_norms
from boxwright.recipes import build_detector, load_recipe


def _trained_norms(module):
    """Give batch norms statistics and factors that a training might leave."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)


@pytest.mark.parametrize("name", ["retinanet-tiny", "nanodet-plus-tiny", "ssd-tiny"])
def test_a_fused_detector_predicts_the_same(name):
    torch.manual_seed(0)
    detector = build_detector(load_recipe(name, ["data.size=64"]), ["a", "b"], pretrained=False).eval()
    _trained_norms(detector)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = detector.predict(images)[0]
        detector.fuse()
        after = detector.predict(images)[0]
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.params, before.params, rtol=1e-4, atol=1e-4)
    assert detector.guide is None
    assert not [name for name, module in detector.named_modules() if isinstance(module, nn.BatchNorm2d)]


def test_a_norm_that_reads_something_else_or_runs_twice_stays():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.norm, self.shared = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.conv(x) + x) + self.shared(self.other(x)) + self.shared(self.conv(x))

    net = Net().eval()
    _trained_norms(net)
    x = torch.rand(1, 3, 4, 4)
    before = net(x)
    assert fold_batch_norms(net, lambda: net(x)) == 0
    torch.testing.assert_close(net(x), before)


def test_a_detector_that_reads_what_is_folded_is_refused():
    class ReadsTwice(nn.Module):
        def __init__(self, backbone):
            super().__init__()
            self.conv, self.norm, self.backbone = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), backbone

        def forward(self, images):
            read = self.conv(images)
            return self.backbone(self.norm(read) + read)

    torch.manual_seed(0)
    detector = build_detector(load_recipe("retinanet-tiny"), ["a", "b"], pretrained=False)
    detector.backbone = ReadsTwice(detector.backbone)
    _trained_norms(detector.eval())
    for layer in detector.head.modules():  # whose scores hardly depend on the image before any training
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight)
    with pytest.raises(RuntimeError, match="changed what the network predicts"):
        detector.fuse()


def test_training_is_refused():
    with pytest.raises(ValueError, match="call eval"):
        fold_batch_norms(nn.BatchNorm2d(3), lambda: None)
