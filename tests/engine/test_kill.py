"""SIGKILL at random moments: what is left always loads, and the result is that of an undisturbed training."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from boxwright.engine.checkpoint import load_state, load_weights
from boxwright.engine.run import Run

SCRIPT = """
import sys, torch
from pathlib import Path
from lightning_fabric import Fabric
from boxwright.engine.session import Session
from boxwright.engine.run import Run
from tiny_training import TinyDetector, measure, tiny_loader, tiny_recipe

recipe = tiny_recipe("train.accumulate=2", f"schedule.epochs={sys.argv[2]}")
run = Run.create(Path(sys.argv[1]), recipe, ["a", "b"], {})
torch.manual_seed(7)
print("ready", flush=True)
Session(Fabric(accelerator="cpu", devices=1), run, recipe, TinyDetector("bn"), tiny_loader(recipe), measure).fit()
"""
EPOCHS = 40


def start(folder):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder), str(EPOCHS)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_ten_kills_lose_no_more_than_the_epoch_under_way(tmp_path):
    random.seed(0)
    run = Run(tmp_path / "killed")
    started = time.monotonic()
    assert start(tmp_path / "straight").wait() == 0
    longest = (time.monotonic() - started) / 2
    seen = 0
    for _ in range(10):
        process = start(run.path)
        time.sleep(random.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        process.wait()
        recorded = [record["epoch"] for record in run.metrics() if record["kind"] == "eval"]
        epoch = load_state(run.state_file)["epoch"] if run.state_file.exists() else 0
        assert epoch >= seen
        assert epoch >= len(recorded) - 1  # an evaluated epoch is at most one step away from its checkpoint
        for name in ("last", "best"):
            if run.weights_file(name).exists() or epoch > 0:
                assert load_weights(run.weights_file(name))[1]["epoch"] <= epoch + 1
        seen = epoch
    assert start(run.path).wait() == 0
    straight = Run.open(tmp_path / "straight")
    for name in ("last", "best"):
        ours, theirs = load_weights(run.weights_file(name)), load_weights(straight.weights_file(name))
        assert ours[1] == theirs[1]
        assert all(torch.equal(ours[0][key], theirs[0][key]) for key in theirs[0])
    assert [record["step"] for record in run.metrics()] == [record["step"] for record in straight.metrics()]
