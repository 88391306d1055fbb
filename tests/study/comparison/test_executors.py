"""Runs in processes of this machine: some at a time, told when they fail, stopped with the command."""

import time

import pytest

from boxwright.engine import Run
from boxwright.errors import BoxwrightError
from boxwright.study.comparison.executors import Process, execute, submitter
from boxwright.study.comparison.runs import RunSpec, finished
from compared import Here, specs


class Endless:
    """A run that ends when it is told to."""

    def __init__(self, spec=None):
        self.cancelled = False

    def done(self):
        return self.cancelled

    def cancel(self):
        self.cancelled = True


def wait_for(job, seconds):
    """Wait for a run; one that hangs is stopped, so that it does not outlive the test."""
    until = time.monotonic() + seconds
    while not job.done() and time.monotonic() < until:
        time.sleep(0.1)
    if not job.done():
        job.cancel()
        pytest.fail(f"not done after {seconds} s")
    return job.result()


def test_a_run_loads_its_images_in_workers(scenes, tmp_path):
    """Its watch on the parent once held the lock of the standard input, for which forked workers waited for ever."""
    [spec] = specs(scenes, tmp_path, recipes=["retinanet-tiny"], changes=["data.workers=1"])
    assert wait_for(Process(spec), 300)["seconds_per_step"] > 0
    assert Run(spec.path).finished


def test_a_run_that_is_stopped_is_not_done(scenes, tmp_path):
    [spec] = specs(scenes, tmp_path, recipes=["retinanet-tiny"], epochs=500)
    job = Process(spec)
    assert not job.done()
    job.cancel()
    assert job.done()
    assert finished(spec) is None


@pytest.mark.slow
def test_processes_give_the_results_of_a_single_one(scenes, tmp_path):
    def results(folder, submit, jobs):
        wanted = specs(scenes, tmp_path / folder)
        ended = list(execute(wanted, submit, jobs=jobs, poll=0.05))
        assert [outcome for _, outcome in ended if isinstance(outcome, Exception)] == []
        return [
            (Run(spec.path).predictions(), [r for r in Run(spec.path).metrics() if r["kind"] == "eval"])
            for spec in wanted
        ]

    assert results("processes", Process, 2) == results("here", Here, 1)


def test_a_run_that_fails_is_told_and_does_not_stop_the_others(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")  # as some terminals have it
    wanted = specs(scenes, tmp_path)
    broken = RunSpec("broken", 0, wanted[0].recipe, {"path": str(tmp_path / "nirgendwö")}, "", str(tmp_path), 1)
    ended = execute([broken, wanted[0]], lambda spec: Process(spec) if spec is broken else Here(spec))
    outcomes = {spec.name: outcome for spec, outcome in ended}
    assert "nirgendwö" in str(outcomes["broken"])
    assert outcomes["retinanet-tiny"]["peak_memory"] > 0


def test_no_run_is_started_after_the_budget():
    class Instant(Endless):
        done = staticmethod(lambda: True)
        result = staticmethod(dict)

    wanted = [RunSpec(str(number), 0, "", {}, "", "") for number in range(3)]
    assert len(list(execute(wanted, Instant, until=time.monotonic() + 60))) == 3
    assert list(execute(wanted, Instant, until=time.monotonic() - 1)) == []


@pytest.mark.parametrize("at", ["a submission", "a look"])
def test_what_goes_wrong_here_stops_the_runs_under_way(at):
    started = []

    def submit(spec):
        if at == "a submission" and len(started) == 2:
            raise BoxwrightError("the queue is closed")
        started.append(Endless())
        if at == "a look" and len(started) == 3:
            started[0].done = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
        return started[-1]

    wanted = [RunSpec(str(number), 0, "", {}, "", "") for number in range(4)]
    with pytest.raises((BoxwrightError, KeyboardInterrupt)):
        list(execute(wanted, submit, jobs=3, poll=0))
    assert len(started) == (2 if at == "a submission" else 3)
    assert all(job.cancelled for job in started)


def test_engines_that_are_not_installed_and_wrong_options_are_told(tmp_path):
    with pytest.raises(BoxwrightError, match="--engine-option is for ray and slurm, got gpus"):
        submitter("processes", tmp_path, {"gpus": 1})
    for engine, package in (("ray", "ray"), ("slurm", "submitit")):
        try:
            __import__(package)
        except ImportError:
            with pytest.raises(BoxwrightError, match=rf'pip install "boxwright\[{engine}\]"'):
                submitter(engine, tmp_path, {})
