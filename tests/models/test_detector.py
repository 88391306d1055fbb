import pytest
import torch
from torchvision.transforms.v2.functional import normalize, resize

from boxwright.models.images import batch_images
from boxwright.recipes import build_detector, load_recipe
from boxwright.structures import Detections, Targets


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_detector(load_recipe("retinanet-tiny", ["data.size=64"]), ["cat", "dog"])


def _images():
    return [torch.rand(3, 48, 96), torch.randint(0, 256, (3, 40, 20), dtype=torch.uint8)]


def _targets():
    return [
        {"boxes": torch.tensor([[10.0, 8, 60, 40]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


def test_training_returns_finite_losses_that_reach_every_parameter(detector):
    losses = detector.train()(_images(), _targets())
    assert losses.keys() == {"classification", "box"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in detector.parameters())
    detector.zero_grad()


def test_training_torchvision_style_lowers_the_loss(detector):
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    totals = []
    for _ in range(8):
        losses = detector.train()(_images(), _targets())
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.7 * totals[0]


def test_evaluation_returns_boxes_in_the_pixels_of_each_image(detector):
    with torch.no_grad():
        detections = detector.eval()(_images())
    assert isinstance(detections, Detections)
    for image, output in zip(_images(), detections, strict=True):
        height, width = image.shape[-2:]
        assert (output["boxes"] >= 0).all()
        assert (output["boxes"][:, 0::2] <= width + 1e-3).all()
        assert (output["boxes"][:, 1::2] <= height + 1e-3).all()


def test_targets_and_detections_follow_the_pixels(detector, monkeypatch):
    """A white block in each image must fill its box in what the network sees, and get its box back."""
    boxes = torch.tensor([[[30.0, 20, 80, 40]], [[5, 10, 15, 35]]])
    images = [torch.zeros(3, 43, 100), torch.zeros(3, 40, 21)]  # whose short sides are no whole pixels when resized
    for image, (x1, y1, x2, y2) in zip(images, boxes[:, 0].int().tolist(), strict=True):
        image[:, y1:y2, x1:x2] = 1
    seen = []
    monkeypatch.setattr(detector, "losses", lambda *seen_by_the_network: seen.extend(seen_by_the_network) or {})
    detector.train()(images, [{"boxes": box, "labels": torch.zeros(1).long()} for box in boxes])
    pixels, targets = seen
    for image, box in zip(pixels, targets.boxes[:, 0], strict=True):
        rows, columns = torch.where(image[0] > 0.7)
        extent = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (extent - box).abs().max() <= 1

    def postprocess(predictions, priors, coder, sizes):
        """Find the block and the whole image."""
        whole = torch.cat([torch.zeros(2, 2), sizes.flip(1)], dim=1).unsqueeze(1)
        found = torch.cat([targets.boxes, whole], dim=1)
        return Detections(found, torch.ones(2, 2), torch.zeros(2, 2).long(), torch.full((2,), 2))

    monkeypatch.setattr(detector, "postprocess", postprocess)
    wholes = torch.tensor([[[0.0, 0, 100, 43]], [[0, 0, 21, 40]]])
    with torch.no_grad():
        torch.testing.assert_close(detector.eval()(images).boxes, torch.cat([boxes, wholes], dim=1))


def test_the_backbone_sees_the_images_normalised_as_torchvision_does(detector):
    images, seen = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), []
    hook = detector.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        detector.eval()(images)
    hook.remove()
    expected = normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0], expected)


def test_large_images_are_shrunk_as_those_of_the_training_are():
    image = torch.randint(
        0, 256, (3, 200, 300), dtype=torch.uint8
    )  # noise, of which picking every fifth pixel stays noise
    (pixels,) = batch_images([image], 64).pixels
    expected = resize(image, [43, 64], antialias=True) / 255
    assert (pixels[:, :43] - expected).abs().max() < 1.01 / 255


def test_images_are_padded_no_further_than_they_must():
    images = [torch.zeros(3, 50, 100), torch.zeros(3, 40, 20)]
    square, free = batch_images(images, 90), batch_images(images, (48, 80))
    assert square.pixels.shape == (2, 3, 90, 90)
    assert square.sizes.tolist() == [[45, 90], [90, 45]]
    assert free.sizes.tolist() == [[40, 80], [80, 40]]
    assert free.pixels.shape == (2, 3, 96, 96)
    assert batch_images(images[:1], (48, 80)).pixels.shape == (1, 3, 64, 96)


def test_a_batch_is_used_as_it_is_and_a_list_gives_the_same_losses(detector):
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    detector.train()
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    as_list = detector(list(images), _targets())
    as_batch = detector(images, Targets.from_list(_targets()))
    torch.testing.assert_close(as_list, as_batch)


@pytest.mark.parametrize(
    ("images", "targets", "words"),
    [
        ([torch.rand(3, 8, 8)], None, "needs targets"),
        ([torch.rand(1, 8, 8)], [], r"images\[0\] must have shape \(3, height, width\), got \(1, 8, 8\)"),
        ([torch.rand(3, 8, 8)], [], "got 1 image but targets of 0"),
    ],
)
def test_wrong_calls_are_named(detector, images, targets, words):
    with pytest.raises(ValueError, match=words):
        detector.train()(images, targets)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "at least one image"),
        ([torch.zeros(3, 20)], r"images\[0\] must have shape \(3, height, width\), got \(3, 20\)"),
        ([torch.zeros(3, 0, 20)], r"images\[0\] must have shape \(3, height, width\), got \(3, 0, 20\)"),
        ([torch.zeros(3, 8, 8, dtype=torch.int64)], "uint8 0..255 or float 0..1, got torch.int64"),
    ],
)
def test_images_that_are_none_are_refused(detector, images, words):
    with pytest.raises(ValueError, match=words):
        detector.eval()(images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_any_float_is_an_image(detector, dtype):
    image = torch.rand(3, 64, 64).to(dtype)
    with torch.no_grad():
        in_list, in_batch = detector.eval()([image]), detector(image[None])
    torch.testing.assert_close(in_list.boxes, in_batch.boxes)


@pytest.mark.parametrize("recipe", ["retinanet-tiny", "ap-loss-tiny", "nanodet-plus-tiny"])
def test_classes_that_there_are_not_are_refused(recipe):
    detector = build_detector(load_recipe(recipe, ["data.size=64"]), ["cat", "dog"]).train()
    with pytest.raises(
        ValueError, match=r"targets\[0\]\['labels'\] holds class 2, but the detector has 2, counted from 0"
    ):
        detector([torch.rand(3, 64, 64)], [{"boxes": torch.tensor([[8.0, 8, 50, 40]]), "labels": torch.tensor([2])}])
