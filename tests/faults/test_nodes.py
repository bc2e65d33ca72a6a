"""A cluster of several raylets on this machine: nodes go and come, drivers die, and the end is as if nothing had."""

import contextlib
import os
import shutil
import subprocess
import tempfile

import psutil
import pytest

from tests.end_to_end.drive import W2S, Results, assert_same_results, environment, until, w2s

pytestmark = pytest.mark.slow
DEADLINE_SECONDS = 180.0
SLOWER = {
    "- {name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 40_000}": (
        "- {name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 2_000_000}"
    ),
    "seeds: [0]": "seeds: [0]\ncompute: {checkpoint_every_seconds: 0.2}",
}
HEALTH = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
"""Ray's defaults take 15 s to miss a machine."""


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs, to which the test adds nodes."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="w2s-ray-", dir="/tmp")  # short: Ray makes sockets in it
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80_000_000, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head | {"_system_config": HEALTH})
    try:
        yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def add_node(cluster, cpus: int = 1):
    return cluster.add_node(num_cpus=cpus, object_store_memory=80_000_000, resources={"train_slot": 1})


def kill_raylet(node) -> None:
    for raylet in node.all_processes["raylet"]:
        raylet.process.kill()


def busy(node) -> list[psutil.Process]:
    """The processes of a node that are in the middle of a run."""
    found = []
    for raylet in node.all_processes["raylet"]:
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(raylet.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "Trainable.train" in " ".join(process.cmdline()):
                        found.append(process)
    return found


class Driver:
    """A `w2s run` on a cluster."""

    def __init__(self, results: Results, cluster, *words: str) -> None:
        self._log = results.storage.parent / "driver.log"
        command = [W2S, "run", str(results.spec), "--storage", str(results.storage), "--no-report", *words]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--address", cluster.address],
                stdout=log,
                stderr=log,
                cwd=results.spec.parent,
                env=environment(),
            )

    @property
    def text(self) -> str:
        return self._log.read_text()

    def until(self, condition) -> None:
        until(condition, self.process, lambda: self.text, DEADLINE_SECONDS)

    def wait(self) -> int:
        return self.process.wait(timeout=DEADLINE_SECONDS)


def run_named(results: Results, kind: str, rung: str) -> str:
    return next(i for i, run in results.session.plan.runs.items() if (run.kind, run.rung) == (kind, rung))


@contextlib.contextmanager
def frozen(processes: list[psutil.Process]):
    """With a machine goes all of it; processes of a raylet that is killed would go on, and might even win."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_node_that_goes_away_hands_its_run_to_one_that_comes(tiny, tmp_path, cluster):
    spec = tiny(SLOWER)
    results, calm = Results(spec, tmp_path / "results"), Results(spec, tmp_path / "undisturbed")
    long, last = run_named(results, "pretrain", "d8"), run_named(results, "ground_truth", "d8")
    first = add_node(cluster)
    driver = Driver(results, cluster, "--only", last)
    driver.until((results.storage / "runs" / long / "scratch" / "state.pt").exists)
    with frozen(busy(first)):
        kill_raylet(first)
        second = add_node(cluster)  # while the sweep waits for a place
        driver.until(lambda: busy(second))
        assert driver.wait() == 0, driver.text
    [failure] = results.store.failures(long)
    assert failure.kind == "NodeLost", failure
    assert "goes on from step" in results.store.read(long, "log.txt").decode()
    assert len(list((results.storage / "runs" / last / "attempts").iterdir())) == 1
    w2s("run", spec, "--storage", calm.storage, "--no-report", "--only", last, cwd=tmp_path)
    assert_same_results(calm, results)


def test_the_runs_of_a_driver_that_is_killed_end_and_the_next_driver_goes_on(tiny, tmp_path, cluster):
    spec = tiny(SLOWER)
    results = Results(spec, tmp_path / "results")
    long = run_named(results, "pretrain", "d8")
    node = add_node(cluster)
    driver = Driver(results, cluster, "--only", long)
    driver.until((results.storage / "runs" / long / "scratch" / "state.pt").exists)
    orphans = busy(node)
    assert orphans
    driver.process.kill()
    driver.wait()
    again = Driver(results, cluster, "--only", long)
    _, alive = psutil.wait_procs(orphans, timeout=60)
    assert not alive  # Ray ends the workers of a driver that is gone
    assert again.wait() == 0, again.text
    assert "goes on from step" in results.store.read(long, "log.txt").decode()
    assert not results.store.failures(long)


@pytest.mark.parametrize("victim", ["trial", "worker"])
def test_a_run_on_two_devices_survives_the_death_of_any_of_its_processes(tiny, tmp_path, cluster, victim):
    """The group of the killed run holds all CPUs there are: the next attempt could not start if it were not removed."""
    spec = tiny(
        {
            "seeds: [0]": "seeds: [0]\ncompute: {devices_per_run: 2, checkpoint_every_seconds: 0.2}",
            "  max_length: 8\n": "  max_length: 8\n  epochs: 40\n",
        }
    )
    results = Results(spec, tmp_path / "results")
    run_id = run_named(results, "ground_truth", "d8")
    base = run_named(results, "pretrain", "d8")
    w2s("run", spec, "--storage", results.storage, "--no-report", "--only", base, cwd=tmp_path)
    node = add_node(cluster, cpus=2)
    driver = Driver(results, cluster, "--only", run_id)
    driver.until((results.storage / "runs" / run_id / "scratch" / "state.pt").exists)
    if victim == "trial":
        victims = busy(node)
    else:
        here = {process.pid for process in busy(node)}
        [raylet] = node.all_processes["raylet"]
        group = [p for p in psutil.Process(raylet.process.pid).children(recursive=True) if p.pid not in here]
        victims = [p for p in group if "TrainWorker" in " ".join(p.cmdline())][-1:]
    assert victims
    for process in victims:
        os.kill(process.pid, 9)
    assert driver.wait() == 0, driver.text
    kinds = {failure.kind for failure in results.store.failures(run_id)}
    assert "WorkerDied" in kinds
    assert "failed, trying again" in driver.text
    assert "goes on from step" in results.store.read(run_id, "log.txt").decode()
