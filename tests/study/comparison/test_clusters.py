"""Runs on other machines: with the results of this one, gone on with where a job or a machine dies, clear in errors."""

import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from boxwright.engine import Run
from boxwright.errors import RunError
from boxwright.study.comparison import clusters
from boxwright.study.comparison.clusters import Queue, SlurmJob, on_ray, on_slurm, run_elsewhere
from boxwright.study.comparison.executors import execute
from boxwright.study.comparison.runs import RunSpec, run_one
from compared import specs

EPOCHS = 20  # enough to be disturbed in between, even if one run starts much later than the other


def spec_in(folder):
    return RunSpec("gfl-tiny", 0, "", {"path": "nowhere"}, "", str(folder))


def test_a_folder_that_is_not_shared_is_told_before_the_training(tmp_path):
    error = run_elsewhere(spec_in(tmp_path / "runs"))
    assert isinstance(error, RunError)
    assert f"{tmp_path / 'runs'} is not there on " in str(error)
    assert "--output must be a folder that all machines share" in str(error)


def test_errors_travel_as_one_sentence_that_names_the_machine(tmp_path, monkeypatch, capsys):
    def fail(spec):
        raise failure

    monkeypatch.setattr(clusters, "run_one", fail)
    failure = RunError("the loss is not finite")
    assert str(run_elsewhere(spec_in(tmp_path))).endswith(": the loss is not finite")
    failure = ZeroDivisionError("division by zero")
    assert str(run_elsewhere(spec_in(tmp_path))).endswith(": ZeroDivisionError: division by zero")
    assert "Traceback" in capsys.readouterr().err  # which the engine keeps in its log


def test_a_run_that_is_done_but_not_seen_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "_GRACE", 0.1)
    with pytest.raises(RunError, match="is not seen here: --output must be a folder that all machines share"):
        clusters._measured(spec_in(tmp_path), {"seconds_per_step": 1})


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """A command that answers for SLURM's, with the job numbers or the failure that a test sets."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "squeue"
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(clusters, "_LOOK", 0.0)

    def answer(*jobs, status=0):
        command.write_text(f"#!/bin/sh\nprintf '%s\\n' {' '.join(jobs)}\nexit {status}\n")
        command.chmod(0o755)

    return answer


def test_a_job_is_missed_only_once_the_queue_has_answered_without_it(squeue):
    queue, since = Queue(), time.monotonic()
    squeue(status=1)
    assert not queue.lacks("7", since)  # the controller is away
    squeue("7", "8")
    assert not queue.lacks("7", since)
    squeue("8")
    assert queue.lacks("7", since)
    assert not queue.lacks("8", since)


def test_a_job_that_is_gone_without_a_result_has_failed(squeue, tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "_GRACE", 0.5)
    paths = SimpleNamespace(result_pickle=tmp_path / "7_0_result.pkl", stderr=tmp_path / "7_0_log.err")
    squeue("7")
    job = SlurmJob(spec_in(tmp_path), SimpleNamespace(job_id="7", paths=paths), Queue())
    assert not job.done()
    squeue()
    assert not job.done()  # its result may still be on the way
    until = time.monotonic() + 60
    while not job.done() and time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(RunError, match=r"job 7 is gone from the queue without a result.*7_0_log\.err"):
        job.result()


@pytest.fixture(scope="module")
def alone(scenes, tmp_path_factory):
    """The runs that a cluster repeats, done one after another in a process without it."""
    wanted = specs(scenes, tmp_path_factory.mktemp("alone"), epochs=EPOCHS, changes=["data.workers=1"])
    for spec in wanted:
        run_one(spec)
    return [results(spec) for spec in wanted]


def shared(path):
    """A folder for runs, which a comparison makes before it starts one."""
    path.mkdir()
    return path


def results(spec):
    run = Run(spec.path)
    numbers = [{key: value for key, value in record.items() if key != "images_per_s"} for record in run.metrics()]
    return numbers, run.predictions()


def disturbed(wanted, submit, disturb, share):
    """Do two runs at once, and disturb them when all or any of them have an epoch behind them."""
    jobs, done = [], []

    class Observed:
        def __init__(self, spec):
            self.job = submit(spec)
            self.result, self.cancel = self.job.result, self.job.cancel
            jobs.append(self.job)

        def done(self):
            if not done and share(Run(spec.path).state_file.exists() for spec in wanted):
                done.append(disturb(jobs))
            return self.job.done()

    outcomes = {spec.name: outcome for spec, outcome in execute(wanted, Observed, jobs=2)}
    assert done, f"the runs were over before they could be disturbed: {outcomes}"
    return outcomes


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sbatch") is None, reason="there is no SLURM here")
def test_slurm_gives_the_same_results_and_a_cancelled_job_goes_on(scenes, tmp_path, alone, monkeypatch):
    pytest.importorskip("submitit", reason='needs submitit: pip install "boxwright[slurm]"')
    monkeypatch.setattr(clusters, "_LOOK", 2.0)
    monkeypatch.setattr(clusters, "_GRACE", 10.0)
    wanted = specs(scenes, shared(tmp_path / "runs"), epochs=EPOCHS, changes=["data.workers=1"])
    submit = on_slurm(tmp_path / "slurm", {"timeout_min": 30, "cpus_per_task": 1})

    def cancel(jobs):
        [first, *_] = [number for number, spec in enumerate(wanted) if Run(spec.path).state_file.exists()]
        subprocess.run(["scancel", jobs[first]._job.job_id], check=True)
        return first

    outcomes = disturbed(wanted, submit, cancel, any)
    [failed] = [spec for spec in wanted if isinstance(outcomes[spec.name], Exception)]
    [(_, outcome)] = execute([failed], submit)
    assert outcome["seconds_per_step"] > 0
    assert len(Run(failed.path).environments) == 2  # gone on with, not begun again
    assert [results(spec) for spec in wanted] == alone


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sbatch") is None, reason="there is no SLURM here")
def test_what_slurm_refuses_is_told(tmp_path):
    pytest.importorskip("submitit", reason='needs submitit: pip install "boxwright[slurm]"')
    with pytest.raises(RunError, match="--engine slurm: Parameter 'colour'"):
        on_slurm(tmp_path, {"colour": 1})
    with pytest.raises(RunError, match=r"--engine slurm: sbatch: error: .*artition"):
        on_slurm(tmp_path, {"slurm_partition": "nowhere"})(spec_in(tmp_path))


@pytest.mark.slow
def test_ray_uses_all_nodes_and_does_the_run_of_one_that_dies_again(scenes, tmp_path, alone):
    ray = pytest.importorskip("ray", reason='needs ray: pip install "boxwright[ray]"')
    from ray.cluster_utils import Cluster

    paths = os.pathsep.join(path for path in sys.path if path)  # also what pytest has added
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    try:
        ray.init(cluster.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": paths}})
        wanted = specs(scenes, shared(tmp_path / "runs"), epochs=EPOCHS, changes=["data.workers=1"])

        def kill(jobs):
            cluster.remove_node(second, allow_graceful=False)
            return True

        outcomes = disturbed(wanted, on_ray({}), kill, all)
        assert all(outcome["seconds_per_step"] > 0 for outcome in outcomes.values()), outcomes
        assert sorted(len(Run(spec.path).environments) for spec in wanted) == [1, 2]  # one on each node; one again
        assert [results(spec) for spec in wanted] == alone
    finally:
        ray.shutdown()
        cluster.shutdown()
