"""One optimiser step: accumulation, clipping, the average."""

import copy
from itertools import islice

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from boxwright.criteria import DenseCriterion
from boxwright.data.dataset import Batch
from boxwright.engine.loop import Trainer, grouped, seed_everything
from boxwright.engine.schedule import Schedule
from boxwright.errors import RunError
from boxwright.recipes import build_detector, load_recipe
from boxwright.recipes.training import OptimizerConfig
from tiny_training import tiny_loader, tiny_recipe

# the step is the gradient: plain SGD with rate 1
PLAIN = OptimizerConfig(type="sgd", lr=1.0, weight_decay=0.0, momentum=0.0)
CONSTANT = Schedule("step", total_steps=100)


def gradient(fabric, detector, batches, **options):
    """The change of all weights in one step, and the step's result."""
    detector = copy.deepcopy(detector).train()
    before = [parameter.detach().clone() for parameter in detector.parameters()]
    result = Trainer(fabric, detector, PLAIN, CONSTANT, **options).step(batches)
    return torch.cat([(b - a.detach()).flatten() for b, a in zip(before, detector.parameters(), strict=True)]), result


def float16():
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    return Fabric(accelerator="cpu", devices=1, plugins=[precision])


@pytest.fixture(scope="module")
def batch():
    """Eight images, of which one half holds nearly all objects and the other some background images."""
    images = next(iter(tiny_loader(tiny_recipe("data.batch_size=8"), images=8)))
    images.targets.valid[4, 2:] = images.targets.valid[6] = False
    return images


def parts(batch, size):
    pick = lambda tensor: list(tensor.split(size))  # noqa: E731
    columns = zip(pick(batch.images), pick(batch.sizes), pick(batch.original_sizes), strict=True)
    return [
        Batch(images, batch.targets[i * size : (i + 1) * size], sizes, originals, batch.image_ids[i * size :][:size])
        for i, (images, sizes, originals) in enumerate(columns)
    ]


@pytest.mark.parametrize(("size", "objects"), [(4, None), (1, None), (2, 1), (2, 0)])
def test_accumulated_micro_batches_equal_one_batch(fabric, detector, batch, size, objects):
    batch = copy.deepcopy(batch)
    if objects is not None:
        batch.targets.valid.flatten()[objects:] = False
    whole, one = gradient(fabric, detector, [batch])
    accumulated, many = gradient(fabric, detector, parts(batch, size))
    assert float((accumulated - whole).norm() / whole.norm()) < 1e-5
    torch.testing.assert_close(many.terms, one.terms, rtol=1e-5, atol=1e-7)
    assert many.images == one.images == 8


@pytest.mark.parametrize(("name", "size"), [("retinanet-tiny", 4), ("retinanet-tiny", 1), ("ssd-tiny", 4)])
def test_accumulation_is_exact_for_a_real_detector(fabric, batch, name, size):
    """Where it is not, a run says so: see the remarks of a recipe."""
    norms = [
        "detector.backbone.norm=frozen-bn",
        "detector.neck.norm=none",
    ]  # batch norm takes each micro-batch by itself
    detector = build_detector(load_recipe(name, norms), ["a", "b", "c", "d"])
    whole, one = gradient(fabric, detector, [batch])
    accumulated, many = gradient(fabric, detector, parts(batch, size))
    assert float((accumulated - whole).norm() / whole.norm()) < 1e-4
    torch.testing.assert_close(many.terms, one.terms, rtol=1e-4, atol=1e-5)


def test_a_detector_that_tells_no_normaliser_is_averaged_over_equal_micro_batches(fabric, batch):
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 4, 3)

        def forward(self, images, targets):
            return {"loss": self.layer(images.float() / 255).square().mean()}

    detector = Plain()
    whole, one = gradient(fabric, detector, [batch])
    accumulated, many = gradient(fabric, detector, parts(batch, 2))
    assert float((accumulated - whole).norm() / whole.norm()) < 1e-4
    torch.testing.assert_close(many.terms, one.terms)


def test_a_criterion_that_forgets_to_count_is_averaged_likewise(fabric, batch):
    class Forgetful(DenseCriterion):
        def forward(self, predictions, priors, targets):
            return {"loss": predictions.logits.square().mean()}

    norms = ["detector.backbone.norm=frozen-bn", "detector.neck.norm=none"]
    detector = build_detector(load_recipe("retinanet-tiny", norms), ["a", "b", "c", "d"])
    own = detector.criterion
    detector.criterion = Forgetful(own.assigner, own.classification, own.box, own.coder)
    whole, one = gradient(fabric, detector, [batch])
    accumulated, many = gradient(fabric, detector, parts(batch, 2))
    assert float((accumulated - whole).norm() / whole.norm()) < 1e-4
    torch.testing.assert_close(many.terms, one.terms)


def test_a_loss_that_is_not_reduced_is_named(fabric, batch):
    detector = build_detector(load_recipe("retinanet-tiny"), ["a", "b", "c", "d"]).train()
    detector.criterion.box.reduction = "image"
    with pytest.raises(
        RunError, match=r"loss term box has shape \(8,\), but is to be one number; the loss must reduce"
    ):
        Trainer(fabric, detector, PLAIN, CONSTANT).step([batch])


def test_clipping_bounds_the_norm_after_the_division(fabric, detector, batch):
    whole, _ = gradient(fabric, detector, [batch])
    bound = float(whole.norm()) / 3
    clipped, _ = gradient(fabric, detector, parts(batch, 2), clip_norm=bound)
    torch.testing.assert_close(clipped, whole / 3, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradient(fabric, detector, [batch], clip_norm=bound * 6)[0], whole)


def test_trainer_state_restores_every_part(fabric, detector):
    recipe = tiny_recipe()
    batches = list(islice(tiny_loader(recipe).epoch(0), 4))

    def trainer():
        schedule = Schedule("cosine", total_steps=8, warmup_steps=2)
        return Trainer(fabric, copy.deepcopy(detector).train(), recipe.optimizer, schedule, clip_norm=1, ema_decay=0.9)

    straight, stopped, resumed = trainer(), trainer(), trainer()
    for batch in batches:
        straight.step([batch])
    for batch in batches[:2]:
        stopped.step([batch])
    resumed.load_state(copy.deepcopy(stopped.state()))
    for batch in batches[2:]:
        resumed.step([batch])
    for name, value in straight.detector.state_dict().items():
        assert torch.equal(value, resumed.detector.state_dict()[name])
        assert torch.equal(straight.ema.detector.state_dict()[name], resumed.ema.detector.state_dict()[name])
    assert straight.step_count == resumed.step_count == 4


def test_a_resume_may_turn_the_average_and_float16_on_or_off(fabric, detector, batch):
    plain = Trainer(fabric, copy.deepcopy(detector).train(), PLAIN, CONSTANT)
    other = Trainer(float16(), copy.deepcopy(detector).train(), PLAIN, CONSTANT, ema_decay=0.9)
    plain.step([batch])
    other.load_state(plain.state())
    for trained, averaged in zip(plain.detector.parameters(), other.evaluated.parameters(), strict=True):
        assert torch.equal(trained, averaged)
    other.step([batch])
    plain.load_state(other.state())
    assert plain.step_count == 2
    assert torch.equal(plain.evaluated.head.weight, other.detector.head.weight)


def test_the_average_is_what_is_evaluated(fabric, detector):
    plain = Trainer(fabric, copy.deepcopy(detector), PLAIN, CONSTANT)
    averaged = Trainer(fabric, copy.deepcopy(detector), PLAIN, CONSTANT, ema_decay=0.9)
    assert plain.evaluated is plain.detector
    assert averaged.evaluated is averaged.ema.detector


def test_grouped_and_seeds():
    assert list(grouped(range(5), 2)) == [[0, 1], [2, 3], [4]]
    draws = []
    for key in ((0, 1, 0), (0, 1, 0), (0, 1, 1), (1, 0, 0)):
        seed_everything(*key)
        draws.append(float(torch.rand(())))
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_float16_scales_the_loss_and_steps_as_float32_does(detector, batch):
    half = float16()
    expected, _ = gradient(Fabric(accelerator="cpu", devices=1), detector, [batch], clip_norm=5.0)
    for batches in ([batch], parts(batch, 4)):
        found, _ = gradient(half, detector, batches, clip_norm=5.0)
        assert float((found - expected).norm() / expected.norm()) < 0.02
    trainer = Trainer(half, detector.train(), PLAIN, CONSTANT)
    before = detector.head.weight.clone()
    detector.head.register_forward_hook(lambda module, inputs, output: output * 1e30)
    trainer.step([batch])
    assert torch.equal(detector.head.weight, before)
    assert trainer.state()["scaler"]["scale"] == 512.0
