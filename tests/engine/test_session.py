"""Whole trainings: resume to the bit, checkpoints, metrics, interruptions."""

import errno
import os

import pytest
import torch

from boxwright.engine import session
from boxwright.engine.checkpoint import load_weights, read_header
from boxwright.engine.coco import Metrics
from boxwright.engine.run import Run
from boxwright.engine.session import Session
from boxwright.errors import RunError
from boxwright.recipes import build_detector
from tiny_training import TinyDetector, measure, tiny_loader, tiny_recipe


class StopAfter:
    """A loader that is interrupted in the middle of an epoch."""

    def __init__(self, loader, epochs, error=KeyboardInterrupt):
        self.loader, self.epochs, self.error = loader, epochs, error

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch):
        for index, batch in enumerate(self.loader.epoch(epoch)):
            if epoch == self.epochs and index == 1:
                raise self.error
            yield batch


def start(path, recipe, fabric, detector=None, stop=None, evaluate=measure, **options):
    run = Run.create(path, recipe, ["a", "b"], {})
    torch.manual_seed(7)
    detector = detector or TinyDetector("bn")
    loader = tiny_loader(recipe)
    loader = loader if stop is None else StopAfter(loader, stop)
    Session(fabric, run, recipe, detector, loader, evaluate, **options).fit()
    return run


def records(run, *drop):
    return [{k: v for k, v in record.items() if k not in ("images_per_s", *drop)} for record in run.metrics()]


RECIPES = [
    (),
    ("train.accumulate=2", "train.ema=null", "schedule.type=step", "schedule.milestones=[3]"),
    (
        "optimizer.type=sgd",
        "optimizer.lr=0.01",
        "optimizer.weight_decay=1e-4",
        "train.accumulate=4",
        "train.eval_every=2",
    ),
]


@pytest.mark.parametrize("overrides", RECIPES)
def test_two_epochs_and_a_resume_equal_four_to_the_bit(tmp_path, fabric, overrides):
    recipe = tiny_recipe(*overrides)
    straight = start(tmp_path / "a", recipe, fabric)
    with pytest.raises(RunError, match="The checkpoint of epoch 2 is safe; resume with: boxwright train --resume"):
        start(tmp_path / "b", recipe, fabric, stop=2)
    torch.rand(5)  # whatever happens in between
    resumed = start(tmp_path / "b", recipe, fabric)
    assert_same_state(straight.state(), resumed.state())
    for name in ("last", "best"):
        ours, theirs = (load_weights(run.weights_file(name)) for run in (straight, resumed))
        assert ours[1] == theirs[1]
        assert all(torch.equal(ours[0][key], theirs[0][key]) for key in ours[0])
    assert records(straight) == records(resumed)


def test_resume_is_exact_for_a_real_detector(tmp_path, fabric):
    recipe = tiny_recipe("train.accumulate=2", "train.precision=bf16-mixed", "schedule.epochs=3")

    def real():
        torch.manual_seed(3)
        return build_detector(recipe, ["a", "b", "c", "d"])

    straight = start(tmp_path / "a", recipe, fabric, real())
    with pytest.raises(RunError, match="epoch 1 is safe"):
        start(tmp_path / "b", recipe, fabric, real(), stop=1)
    assert_same_state(straight.state(), start(tmp_path / "b", recipe, fabric, real()).state())


def test_a_run_that_has_lost_its_trainer_state_is_not_begun_anew_over_its_weights(tmp_path, fabric):
    recipe = tiny_recipe("schedule.epochs=2")
    run = start(tmp_path / "run", recipe, fabric)
    run.state_file.unlink()
    before = run.weights_file("best").read_bytes()
    with pytest.raises(RunError, match=r"last\.pt is missing, without which a run of 2 epochs cannot go on"):
        start(run.path, recipe, fabric)
    assert run.weights_file("best").read_bytes() == before


def assert_same_state(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same_state(ours[key], theirs[key])
    elif isinstance(ours, (list, tuple)):
        for one, other in zip(ours, theirs, strict=True):
            assert_same_state(one, other)
    else:
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


def test_the_run_folder_says_everything(tmp_path, fabric):
    recipe = tiny_recipe("schedule.epochs=2")
    run = start(tmp_path / "run", recipe, fabric, classes=["a", "b"])
    assert run.recipe == recipe
    assert run.classes == ["a", "b"]
    header = read_header(run.weights_file("last"))
    assert header["classes"] == ["a", "b"]
    assert header["epoch"] == 2
    evaluations = [record for record in run.metrics() if record["kind"] == "eval"]
    assert [record["epoch"] for record in evaluations] == [1, 2]
    assert read_header(run.weights_file("best"))["metrics"]["AP"] == max(record["AP"] for record in evaluations)
    steps = [record for record in run.metrics() if record["kind"] == "train"]
    assert [record["step"] for record in steps] == [4, 8]
    assert {"loss", "classification", "box", "lr", "images_per_s", "epoch", "skipped_steps"} < steps[0].keys()
    assert steps[0]["loss"] == pytest.approx(steps[0]["classification"] + steps[0]["box"])
    assert any(name.startswith("events.out.tfevents") for name in os.listdir(run.path / "tensorboard"))
    assert run.finished


def test_every_so_many_epochs_and_the_last_are_evaluated(tmp_path, fabric):
    run = start(tmp_path, tiny_recipe("schedule.epochs=5", "train.eval_every=2"), fabric)
    assert [record["epoch"] for record in run.metrics() if record["kind"] == "eval"] == [2, 4, 5]


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_the_first_of_the_best_epochs_is_kept_through_a_resume(tmp_path, fabric, stop):
    scores = iter([0.2, 0.5, None, 0.5, 0.3, 0.4])

    def evaluate(detector):
        score = next(scores)
        return Metrics(stats={"AP": score}, per_class=(), images=0, predictions=[{"score": score}])

    recipe = tiny_recipe("schedule.epochs=6")
    with pytest.raises(RunError, match=f"epoch {stop} is safe"):
        start(tmp_path, recipe, fabric, stop=stop, evaluate=evaluate)
    run = start(tmp_path, recipe, fabric, evaluate=evaluate)
    header = read_header(run.weights_file("best"))
    assert (header["epoch"], header["metrics"]) == (2, {"AP": 0.5})
    assert read_header(run.weights_file("last"))["epoch"] == 6
    assert run.predictions() == [{"score": 0.5}]


def test_a_larger_number_of_epochs_continues_a_finished_run(tmp_path, fabric):
    constant = ("schedule.type=step", "train.ema=null")
    start(tmp_path / "a", tiny_recipe("schedule.epochs=2", *constant), fabric)
    longer = start(tmp_path / "a", tiny_recipe(*constant), fabric)
    assert_same_state(longer.state(), start(tmp_path / "b", tiny_recipe(*constant), fabric).state())


@pytest.mark.parametrize("batch_size", [2, 8])
def test_a_resume_in_batches_of_another_size_keeps_its_place_in_the_schedule(tmp_path, fabric, batch_size):
    """Epochs, of which the schedule speaks, have other numbers of steps from then on."""
    changed = tiny_recipe(f"data.batch_size={batch_size}")
    with pytest.raises(RunError, match="epoch 2 is safe"):
        start(tmp_path / "a", tiny_recipe(), fabric, stop=2)
    resumed = start(tmp_path / "a", changed, fabric)
    rates = [
        {record["epoch"]: record["lr"] for record in run.metrics() if record["kind"] == "train"}
        for run in (resumed, start(tmp_path / "b", changed, fabric))
    ]
    assert rates[0].keys() == rates[1].keys() == {1, 2, 3, 4}
    for epoch in (3, 4):
        assert rates[0][epoch] == rates[1][epoch] > 0
    steps = [record["step"] for record in resumed.metrics() if record["kind"] == "train"]
    assert steps == sorted(steps)


def test_a_loader_process_that_is_killed_says_how_to_resume(tmp_path, fabric):
    def killed(detector):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    words = (
        r"has ended \(DataLoader worker \(pid 7\) is killed by signal: Killed\); .*data.workers. No epoch has finished"
    )
    with pytest.raises(RunError, match=words):
        start(tmp_path, tiny_recipe(), fabric, evaluate=killed)


@pytest.mark.parametrize("where", ["save_weights", "save_state"])
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, fabric, monkeypatch, where):
    recipe = tiny_recipe()
    with pytest.raises(RunError, match="epoch 2 is safe"):
        start(tmp_path, recipe, fabric, stop=2)
    before = Run.open(tmp_path).state()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(session, where, full)
        with pytest.raises(RunError, match=r"No space left.*epoch 2 is safe; resume with"):
            start(tmp_path, recipe, fabric)
    assert_same_state(Run.open(tmp_path).state(), before)
    assert start(tmp_path, recipe, fabric).finished


def test_another_class_count_is_refused_with_the_file_named(tmp_path, fabric):
    start(tmp_path, tiny_recipe("schedule.epochs=1"), fabric)
    other = TinyDetector("bn")
    other.head = torch.nn.Linear(8, 5)
    with pytest.raises(RunError, match=r"last\.pt does not fit the recipe or the classes"):
        start(tmp_path, tiny_recipe("schedule.epochs=2"), fabric, other)


def test_metrics_cut_short_by_a_kill_are_mended(tmp_path, fabric):
    recipe = tiny_recipe()
    with pytest.raises(RunError, match="epoch 2"):
        start(tmp_path / "a", recipe, fabric, stop=2)
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 9, "epoch": 3}\n{"kind": "tr')
    resumed = start(tmp_path / "a", recipe, fabric)
    assert records(resumed) == records(start(tmp_path / "b", recipe, fabric))


def test_the_command_to_go_on_with_can_be_copied(tmp_path, fabric):
    with pytest.raises(RunError, match=r"boxwright train --resume '.*/a run \(1\)'$"):
        start(tmp_path / "a run (1)", tiny_recipe(), fabric, stop=1)
