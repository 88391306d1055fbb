"""A run folder is trained in by one process at a time, and is free at once when that one dies."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from boxwright import files
from boxwright.engine import Run, train
from boxwright.engine.folder import FolderLock
from boxwright.errors import RunError

SMALL = (
    "data.size=64", "data.batch_size=4", "data.workers=0", "schedule.epochs=1", "train.precision=32-true",
)  # fmt: skip
# holds the lock until it is told to leave, with a child that outlives it, as workers of a data loader do for seconds
HOLDER = """
import os, sys
from pathlib import Path
from lightning_fabric import Fabric
from boxwright.engine.folder import FolderLock
with FolderLock(Fabric(accelerator="cpu", devices=1), Path(sys.argv[1]), print) as lock:
    lock.take()
    inside, outside = os.pipe()
    if os.fork() == 0:
        os.close(outside)
        os.read(inside, 1)  # which ends when the parent does
        os.read(0, 1)  # which ends when the test does
        os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    return train("retinanet-tiny", scenes, overrides=SMALL, output=tmp_path_factory.mktemp("runs") / "run", quiet=True)


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    return Run(tmp_path / "run")


@contextmanager
def held(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()  # which ends the child as well
        process.stdout.close()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_another_process_trains_is_refused_before_anything_is_written(run):
    half = run.path / "checkpoints" / ".last.pt.123.tmp"
    half.write_text("what the other process is writing")
    with held(run.path) as other:
        before = contents(run.path)
        sentence = (
            rf"run is being trained by process {other.pid} on {socket.gethostname()}: let that end or stop it, or"
        )
        with pytest.raises(RunError, match=sentence):
            train(resume=run.path, overrides=["schedule.epochs=2"], quiet=True)
        assert contents(run.path) == before


def test_a_new_run_is_refused_a_folder_in_which_another_begins(scenes, tmp_path):
    with held(tmp_path / "run"), pytest.raises(RunError, match=r"run is being trained by process \d+ on "):
        train("retinanet-tiny", scenes, overrides=SMALL, output=tmp_path / "run", quiet=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.parametrize("end", ["kill -9", "done"])
def test_a_run_whose_training_has_ended_is_free_at_once(run, end):
    with held(run.path) as other:
        if end == "done":
            other.stdin.write("\n")
            other.stdin.flush()
        else:
            other.send_signal(signal.SIGKILL)
        other.wait()
        resumed = train(resume=run.path, overrides=["schedule.epochs=2"], quiet=True)
    assert resumed.epochs_done == 2


def test_a_training_that_has_ended_in_this_process_leaves_the_folder_to_others(run):
    with pytest.raises(RunError, match="does not fit the recipe"):
        train(resume=run.path, overrides=["detector.neck.channels=32"], quiet=True)
    with held(run.path):
        pass


def test_a_file_system_without_locks_is_said_and_trained_on(run, monkeypatch, capsys):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", no_locks)
    assert train(resume=run.path, overrides=["schedule.epochs=2"]).epochs_done == 2
    said = " ".join(capsys.readouterr().out.split())
    assert f"no lock on {run.path} ({os.strerror(errno.ENOLCK)}): let no other process train there" in said


def test_systems_that_say_it_as_a_lack_of_permission_are_understood(tmp_path, monkeypatch):
    def denied(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("fcntl.lockf", denied)
    with (tmp_path / "file").open("w") as file, pytest.raises(BlockingIOError):
        files.lock(file)


def test_every_process_of_a_training_hears_that_the_folder_is_taken(run):
    class Second:
        """What a process that is not the first has of Fabric."""

        is_global_zero = False

        def broadcast(self, value):
            return value or "run is being trained"

    with FolderLock(Second(), run.path, print) as lock, pytest.raises(RunError, match="run is being trained"):
        lock.take()
