"""Losses that are not finite: named, kept for replay, or skipped and counted."""

import copy
from itertools import islice

import pytest
import torch

from boxwright.engine.guard import NonFiniteGuard
from boxwright.engine.loop import Trainer
from boxwright.engine.nonfinite import diagnose, load_batch
from boxwright.engine.run import Run
from boxwright.engine.schedule import Schedule
from boxwright.engine.session import Session
from boxwright.errors import RunError
from boxwright.recipes.training import OptimizerConfig
from tiny_training import TinyDetector, tiny_loader, tiny_recipe


class Poisoned(TinyDetector):
    """Its head overflows on one call."""

    def __init__(self, call):
        super().__init__("bn")
        self.calls, self.call, self.active = 0, call, False
        self.head.register_forward_hook(self._poison)

    def _poison(self, module, inputs, output):
        return output * torch.tensor([1.0, float("inf")]) if self.active else output

    def forward(self, images, targets=None):
        # the pass that is repeated for the report fails like the first
        self.active = self.training and self.calls in (self.call, self.call + 1)
        self.calls += self.training
        return super().forward(images, targets)


def run_fit(tmp_path, fabric, detector, *overrides, **options):
    recipe = tiny_recipe("schedule.epochs=2", "train.ema=null", *overrides)
    run = Run.create(tmp_path, recipe, [], {})
    options["name"] = lambda image_id: f"scene-{image_id}.png"
    Session(fabric, run, recipe, detector, tiny_loader(recipe), **options).fit()
    return run


def test_stop_names_step_images_term_and_tensor_and_keeps_the_batch(tmp_path, fabric):
    with pytest.raises(RunError) as caught:
        run_fit(tmp_path, fabric, Poisoned(call=5))
    message = str(caught.value)
    assert "not finite at step 5" in message
    assert "loss term box = inf" in message or "loss term box = nan" in message
    assert "output of head [Linear]" in message
    assert "4 infinite of 8 values" in message
    assert "--on-nonfinite skip" in message
    assert "The checkpoint of epoch 1 is safe; resume with: boxwright train --resume" in message
    (dump,) = (tmp_path / "nonfinite").iterdir()
    assert str(dump) in message
    images, targets, info = load_batch(dump)
    assert info["step"] == 5
    assert all(name in message for name in info["images"])
    expected = list(tiny_loader(tiny_recipe()).epoch(1))[1]
    assert torch.equal(images, expected.images)
    assert [len(target["boxes"]) for target in targets] == expected.targets.valid.sum(dim=1).tolist()
    assert TinyDetector().train()(images, expected.targets)["box"].isfinite()


def test_skip_goes_on_counts_and_is_unharmed(tmp_path, fabric):
    torch.manual_seed(0)
    detector = Poisoned(call=5)
    detector.backbone[1].register_forward_hook(lambda module, inputs, output: None)
    run = run_fit(tmp_path, fabric, detector, on_nonfinite="skip")
    last = [*run.metrics()][-1]
    assert last["step"] == 8
    assert last["skipped_steps"] == 2
    assert all(record["loss"] < 100 for record in run.metrics())
    assert all(value.isfinite().all() for value in detector.state_dict().values())
    assert run.state()["skipped"] == 2


def test_skip_undoes_what_batch_norm_has_seen(tmp_path, fabric):
    torch.manual_seed(0)
    detector = TinyDetector("bn")
    state = {}

    def poison(module, inputs):
        state.setdefault("before", copy.deepcopy(module.running_mean))
        state["calls"] = state.get("calls", 0) + 1
        return (inputs[0] * float("nan"),) if state["calls"] == 1 else None

    detector.backbone[1].register_forward_pre_hook(poison)
    run_fit(tmp_path, fabric, detector, on_nonfinite="skip")
    assert detector.backbone[1].running_mean.isfinite().all()
    assert not torch.equal(detector.backbone[1].running_mean, state["before"])


def test_the_first_step_of_a_resume_is_skipped_without_harm_too(tmp_path, fabric):
    """Its buffers are those of the checkpoint, not of the network that was built anew."""
    mean = run_fit(tmp_path, fabric, TinyDetector("bn"), "schedule.epochs=1").state()["detector"][
        "backbone.1.running_mean"
    ]
    resumed = TinyDetector("bn")
    resumed.head.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    assert run_fit(tmp_path, fabric, resumed, on_nonfinite="skip").state()["skipped"] == 4
    assert torch.equal(resumed.backbone[1].running_mean, mean)


def test_only_the_micro_batch_that_fails_is_reported(tmp_path, fabric):
    halves = "train.accumulate=2"
    _, bad = islice(tiny_loader(tiny_recipe(halves)).epoch(0), 2)
    detector = TinyDetector("gn")
    spoilt = bad.images.float().mean()

    def poison(module, inputs):
        return (inputs[0] * float("nan"),) if torch.isclose(inputs[0].mean() * 255, spoilt) else None

    detector.backbone.register_forward_pre_hook(poison)
    with pytest.raises(RunError) as caught:
        run_fit(tmp_path, fabric, detector, halves)
    images = ", ".join(f"scene-{image_id}.png" for image_id in bad.image_ids)
    assert f"images: {images}; batch kept in" in str(caught.value)
    (dump,) = (tmp_path / "nonfinite").iterdir()
    assert torch.equal(load_batch(dump)[0], bad.images)


def test_diagnose_looks_in_the_order_of_the_step(detector):
    batch = next(iter(tiny_loader(tiny_recipe())))
    images = batch.images.float() / 255
    terms, finding = diagnose(detector.train(), images, batch.targets)
    assert finding is None
    assert terms.keys() == {"classification", "box"}
    images[0, 0, 0, 0] = float("nan")
    assert str(diagnose(detector, images, batch.targets)[1]).startswith("images (1 NaN and 0 infinite")
    images[0, 0, 0, 0] = 0
    with torch.no_grad():
        detector.head.bias[1] = float("inf")
    assert str(diagnose(detector, images, batch.targets)[1]).startswith("head.bias (0 NaN and 1 infinite of 2")


def test_diagnose_looks_into_outputs_of_several_tensors(detector):
    class Both(torch.nn.Module):
        def forward(self, features):
            return {"features": features, "norms": [features.norm(), features.norm() / 0]}

    detector.both = Both()
    detector.backbone.register_forward_hook(lambda module, inputs, output: detector.both(output)["features"])
    batch = next(iter(tiny_loader(tiny_recipe())))
    _, finding = diagnose(detector.train(), batch.images, batch.targets)
    assert str(finding) == "output of both [Both] (0 NaN and 1 infinite of 1 values, shape ())"


def test_without_a_check_the_device_keeps_the_weights(fabric, detector):
    """The GPU's way, which fused CPU kernels share: the step does nothing where the flag is set."""
    batch = next(iter(tiny_loader(tiny_recipe())))
    for kind in ("sgd", "adamw"):
        twin = copy.deepcopy(detector).train()
        config = OptimizerConfig(type=kind, lr=1.0, weight_decay=0.1)
        trainer = Trainer(fabric, twin, config, Schedule("step", total_steps=9), clip_norm=1.0)
        factors = [1.0, float("nan"), 1.0]  # one bad micro-batch spoils the step
        handle = twin.head.register_forward_hook(lambda *call, factors=factors: call[2] * factors.pop())
        assert trainer.step([batch] * 3).bad == 1
        for name, value in detector.state_dict().items():
            assert torch.equal(value, twin.state_dict()[name])
        for state in trainer.optimizer.state.values():
            assert all(not buffer.any() for buffer in state.values())
        handle.remove()
        assert trainer.step([batch]).bad == 0
        assert not torch.equal(detector.head.weight, twin.head.weight)
        assert twin.head.weight.isfinite().all()


def test_steps_that_were_all_skipped_show_no_loss(tmp_path, fabric):
    detector = TinyDetector("gn")
    detector.head.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    run = run_fit(tmp_path, fabric, detector, on_nonfinite="skip")
    assert [record.get("loss") for record in run.metrics()] == [None, None]
    assert [record["skipped_steps"] for record in run.metrics()] == [4, 8]


def look_late(monkeypatch):
    """Make the guard do on a CPU what it does on a GPU."""
    events = type("Event", (), {"record": lambda self: None, "synchronize": lambda self: None})
    monkeypatch.setattr(torch.cuda, "Event", events)
    monkeypatch.setattr(NonFiniteGuard, "check", None)


def test_a_gpu_is_looked_at_one_step_late_with_its_weights_unharmed(tmp_path, fabric, monkeypatch):
    look_late(monkeypatch)
    detector = TinyDetector("gn")
    calls, seen = [], []

    def poison(module, inputs, output):
        calls.append(1)
        seen.append(module.weight.clone())
        return output * float("nan") if len(calls) in (6, 8) else output  # step 5, and its repetition after step 6

    detector.head.register_forward_hook(poison)
    with pytest.raises(RunError, match=r"not finite at step 5\..*output of head.*The checkpoint of epoch 1 is safe"):
        run_fit(tmp_path, fabric, detector)
    assert len(calls) == 8
    assert torch.equal(seen[5], seen[6])
    assert all(value.isfinite().all() for value in detector.state_dict().values())


def test_a_bad_last_step_is_found_before_the_checkpoint(tmp_path, fabric, monkeypatch):
    look_late(monkeypatch)
    detector = TinyDetector("gn")
    calls = []

    def poison(module, inputs, output):
        calls.append(1)
        return output * float("nan") if len(calls) >= 4 else output

    detector.head.register_forward_hook(poison)
    with pytest.raises(RunError, match=r"not finite at step 3\..*No epoch has finished"):
        run_fit(tmp_path, fabric, detector)
