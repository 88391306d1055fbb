"""Alternating training: who is trained on what in each step, and that it goes on wherever it was stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import boxwright
from boxwright.engine import train
from boxwright.engine.alternate import STEPS, steps_of
from boxwright.engine.checkpoint import load_weights, read_header
from boxwright.engine.run import Run
from boxwright.errors import RunError
from boxwright.models import TwoStageDetector

SMALL = [
    "data.size=64", "data.batch_size=4", "data.workers=0", "schedule.epochs=1", "train.eval_every=1",
    "train.precision=32-true", "detector.regions.channels=32", "detector.regions.pool_size=3",
    "detector.proposals.train_post_nms=40", "detector.proposals.post_nms=20", "schedule.regime=alternating",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """A run, and for each step the boxes that its second stage saw and the proposals of step 1's network for them."""
    pairs = []
    plain = TwoStageDetector.losses

    def losses(detector, pixels, targets):
        if detector._stages == ("roi",):
            seen = []
            hook = detector.criterion.roi.pick
            detector.criterion.roi.pick = lambda priors, objects: seen.append(priors.boxes) or hook(priors, objects)
            answer = plain(detector, pixels, targets)
            del detector.criterion.roi.pick
            pairs.append((pixels.clone(), targets, seen[0], bool(detector._proposer)))
            return answer
        return plain(detector, pixels, targets)

    path = tmp_path_factory.mktemp("runs") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TwoStageDetector, "losses", losses)
        run = train("faster-rcnn-tiny", scenes, overrides=SMALL, output=path, quiet=True)
    return run, pairs


def _weights(run, number, *parts):
    state, _ = load_weights(steps_of(run)[number - 1].weights_file("last"))
    return {name: tensor for name, tensor in state.items() if name.startswith(parts or "")}


def test_four_checkpoints_of_which_the_last_is_the_run_itself(trained):
    run, _ = trained
    assert [step.path.relative_to(run.path).as_posix() for step in steps_of(run)] == [
        "steps/1-proposals", "steps/2-regions", "steps/3-proposals", ".",
    ]  # fmt: skip
    for step in steps_of(run):
        assert read_header(step.weights_file("last"))["epoch"] == 1
        terms = next(step.metrics()).keys()
        assert ("rpn_class" in terms, "roi_class" in terms) == (
            ("proposals" in step.path.name, "proposals" not in step.path.name)
        )
    assert run.finished
    found = boxwright.load(run.path)([torch.zeros(3, 50, 70, dtype=torch.uint8)])
    assert len(found) == 1


def test_steps_3_and_4_leave_the_shared_trunk_untouched(trained):
    run, _ = trained
    trunk = ("backbone.", "neck.")
    second, third, fourth = (_weights(run, number, *trunk) for number in (2, 3, 4))
    assert second.keys() == third.keys() == fourth.keys()
    assert any("running_mean" in name for name in second)
    for name, tensor in second.items():
        assert torch.equal(tensor, third[name]), name
        assert torch.equal(tensor, fourth[name]), name


def test_every_step_trains_its_own_layers(trained):
    run, _ = trained

    def same(part, one, other):
        left, right = _weights(run, one, part), _weights(run, other, part)
        return [torch.equal(tensor, right[name]) for name, tensor in left.items() if "num_batches" not in name]

    assert not any(same("backbone.", 1, 2))  # nothing is shared before step 3
    assert not any(same("head.tower.0.0.weight", 2, 3))
    assert all(same("head.", 3, 4))
    assert all(same("regions.", 2, 3))
    assert not any(same("regions.layers.1.weight", 3, 4))


def test_each_second_stage_is_fed_by_the_network_of_the_step_before(trained):
    run, pairs = trained
    assert [borrowed for *_, borrowed in pairs] == [True, True, False, False]  # two batches in steps 2 and 4
    detector = boxwright.load(run.path)
    for number, chosen in ((1, pairs[:2]), (3, pairs[2:])):
        detector.load_state_dict(load_weights(steps_of(run)[number - 1].weights_file("last"))[0])
        for pixels, targets, seen, _ in chosen:
            own = detector.propose(pixels, training=True)
            objects = targets.boxes.shape[1]
            assert own.any()
            torch.testing.assert_close(seen[:, objects:], own)


def test_a_finished_run_stays_as_it_is_and_cannot_be_prolonged(trained):
    run, _ = trained
    before = run.weights_file("last").read_bytes()
    train(resume=run.path, quiet=True)
    assert run.weights_file("last").read_bytes() == before
    with pytest.raises(RunError, match=r"step 1 of .* ended after 1 epoch, and later steps are built on it"):
        train(resume=run.path, overrides=["schedule.epochs=2"], quiet=True)


class _Stop(Exception):
    pass


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_stopped_in_any_step_it_goes_on_to_the_same_end(trained, scenes, tmp_path, number, monkeypatch):
    run, _ = trained
    calls = []
    plain = TwoStageDetector.losses

    def losses(detector, pixels, targets):
        calls.append(1)
        if len(calls) == 2 * number:  # the last of two batches
            raise _Stop
        return plain(detector, pixels, targets)

    with monkeypatch.context() as patch:
        patch.setattr(TwoStageDetector, "losses", losses)
        with pytest.raises(_Stop):
            train("faster-rcnn-tiny", scenes, overrides=SMALL, output=tmp_path / "b", quiet=True)
    done = [step.weights_file("last").exists() for step in steps_of(Run.open(tmp_path / "b"))]
    assert done == [index + 1 < number for index in range(len(STEPS))]
    resumed = train(resume=tmp_path / "b", quiet=True)
    for step in range(1, 5):
        ours, theirs = _weights(resumed, step), _weights(run, step)
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items()), step


@pytest.mark.slow
def test_killed_again_and_again_it_comes_to_the_same_end(trained, scenes, tmp_path):
    run, _ = trained
    script = "import sys; from boxwright.cli import main; sys.exit(main())"
    options = [part for override in SMALL for part in ("--set", override)]
    start = ["train", "--recipe", "faster-rcnn-tiny", "--data", str(scenes), "--output", str(tmp_path / "c"), *options]
    command = [sys.executable, "-c", script]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([*command, *start], env=environment, stdout=subprocess.DEVNULL)
    for name in [*STEPS][:3]:
        file = tmp_path / "c" / "steps" / name / "checkpoints" / "last.pt"
        deadline = time.monotonic() + 300
        while not file.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert file.exists()
        process = subprocess.Popen(
            [*command, "train", "--resume", str(tmp_path / "c")], env=environment, stdout=subprocess.DEVNULL
        )
    assert process.wait() == 0
    killed = Run.open(Path(tmp_path / "c"))
    assert all(torch.equal(tensor, _weights(run, 4)[name]) for name, tensor in _weights(killed, 4).items())
