"""`ray up` for real: three hosts on this machine, a sweep sent by `w2s submit`, a host that dies and comes back.

    make test-cluster

needs root, network namespaces, sshd and rsync. What is not as on three real machines: they share one kernel and one
Python environment (`setup_commands` that install it are left out) and the object storage is moto's server.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config

from sweep.session import Session
from sweep.storage.store import Store
from tests.cluster import hosts
from tests.cluster.hosts import Host, Machines, until

ROOT = Path(__file__).parents[2]
PORT = 5577
STORAGE = "s3://w2s/facts"
AWS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": f"http://{hosts.LAUNCHER}:{PORT}",
}
NODES = (
    "import logging, ray; ray.init('auto', log_to_driver=False, logging_level=logging.ERROR); "
    "print('alive:', *(n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']))"
)

pytestmark = pytest.mark.skipif(
    os.environ.get("W2S_CLUSTER_TEST") != "1", reason="takes minutes and makes network namespaces: make test-cluster"
)


@pytest.fixture
def up(tmp_path, monkeypatch) -> Iterator["Up"]:
    """Three hosts that are on, a storage, and a cluster file with their addresses."""
    if reason := hosts.why_not():
        pytest.skip(reason)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    exports = {**AWS, "PATH": f"{sys.prefix}/bin:$PATH", "PYTHONPATH": "/root/w2s-sweep", "OMP_NUM_THREADS": "1"}
    bashrc = "".join(f"export {name}={value}\n" for name, value in exports.items())
    visible = [Path(sys.prefix), Path(sys.base_prefix)]
    with hosts.machines(tmp_path / "hosts", 3, bashrc, visible) as machines, object_storage():
        yield Up(machines, cluster_file(machines, tmp_path / "cluster.yaml"), tmp_path, home)


@dataclass
class Up:
    machines: Machines
    cluster: Path
    folder: Path
    home: Path

    def command(self, *words: object, seconds: float = 120, cwd: Path = ROOT) -> str:
        """Run something on the launcher; its output, or the failure of the test."""
        environment = {**os.environ, "HOME": str(self.home), "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
        if words[:2] != ("w2s", "run"):  # whose Ray needs a short path for its sockets
            environment |= {"TMPDIR": str(self.folder), "RAY_TMPDIR": str(self.folder)}
        environment["PATH"] = f"{sys.prefix}/bin:{os.environ['PATH']}"
        done = subprocess.run(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            cwd=cwd,
            env=environment,
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-4000:]}"
        return done.stdout

    def on_head(self, line: str) -> str:
        return self.on(self.machines.head, line)

    def on(self, host: Host, line: str) -> str:
        ssh = ("ssh", "-q", "-i", self.machines.key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no")
        nobody = ("-o", "UserKnownHostsFile=/dev/null", f"root@{host.address}")
        return self.command(*ssh, *nobody, f"source ~/.bashrc; {line}")

    def alive(self) -> set[str]:
        """Addresses of the nodes that Ray believes in."""
        said = self.on_head(f'python -c "{NODES}"')
        return set(said.partition("alive:")[2].split())


def cluster_file(machines: Machines, path: Path) -> Path:
    """examples/cluster/local.yaml with addresses filled in, one CPU for each host, and nothing to install."""
    cluster = yaml.safe_load((ROOT / "examples" / "cluster" / "local.yaml").read_text())
    cluster["cluster_name"] = hosts.PREFIX
    cluster["provider"] |= {"head_ip": machines.head.address, "worker_ips": [h.address for h in machines.workers]}
    cluster["auth"] = {"ssh_user": "root", "ssh_private_key": str(machines.key)}
    cluster["setup_commands"] = [line for line in cluster["setup_commands"] if "env/bin" not in line]
    assert any("RAY_AUTH_MODE" in line for line in cluster["setup_commands"])
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        small = "ray start --num-cpus=1 --object-store-memory=100000000"
        cluster[key] = [line.replace("ray start", small) for line in cluster[key]]
    path.write_text(yaml.safe_dump(cluster))
    return path


def object_storage() -> "ObjectStorage":
    return ObjectStorage()


class ObjectStorage:
    """An S3 server that the hosts reach on the bridge."""

    def __enter__(self) -> None:
        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
        self._server = ThreadedMotoServer(ip_address=hosts.LAUNCHER, port=PORT, verbose=False)
        self._server.start()
        boto3.client("s3").create_bucket(Bucket="w2s")

    def __exit__(self, *exc: object) -> None:
        self._server.stop()


def spec_file(folder: Path) -> Path:
    """examples/facts.yaml cut down to three rungs. Its runs stay as they are and it has more seeds: a host that was off
    comes back only after a minute, and must find work then."""
    spec = yaml.safe_load((ROOT / "examples" / "facts.yaml").read_text())
    spec["seeds"] = [0, 1, 2, 3]
    spec["ladder"]["rungs"] = spec["ladder"]["rungs"][:3]
    path = folder / "facts.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def host_of(store: Store, run_id: str) -> str:
    return store.read_json(run_id, "metrics.json")["host"]


def at_work(store: Store, plan_ids: list[str], candidates: list[Host]) -> Host | None:
    """One of the hosts that is in the middle of a run."""
    names = {host.name: host for host in candidates}
    for run_id in plan_ids:
        for beat in store.heartbeats(run_id):
            if beat.host in names:
                return names[beat.host]
    return None


def test_a_sweep_on_three_hosts_survives_the_loss_of_one_and_equals_that_of_one_machine(up: Up):
    figures: dict[str, float] = {}

    def timed(name: str, seconds: float) -> None:
        figures[name] = round(seconds, 1)
        print(f"{name}: {seconds:.1f} s", flush=True)

    start = time.monotonic()
    up.command("ray", "up", "-y", "--no-config-cache", up.cluster, seconds=240)
    timed("ray up", time.monotonic() - start)
    everyone = {host.address for host in up.machines.hosts}
    timed("workers join after", until(lambda: up.alive() == everyone, "all workers to join", seconds=180))

    spec = spec_file(up.folder)
    start = time.monotonic()
    said = up.command("w2s", "submit", spec, "--cluster", up.cluster, "--storage", STORAGE, seconds=300)
    timed("w2s submit", time.monotonic() - start)
    assert "submitted as job" in said
    job = said.split()[3].rstrip(";")
    started = time.monotonic()

    plan_ids = list(Session.open(str(spec), STORAGE).plan.runs)
    store = Store(STORAGE)

    def done() -> set[str]:
        store.fs.invalidate_cache()
        return {run_id for run_id in plan_ids if store.done(run_id)}

    victims: list[Host] = []

    def found() -> bool:
        store.fs.invalidate_cache()
        if (host := at_work(store, plan_ids, up.machines.workers)) is not None:
            victims.append(host)
        return bool(victims)

    until(found, "a worker to be in the middle of a run", seconds=240)
    victim = victims[0]
    victim.power_off()
    lost = time.monotonic()
    before = done()
    assert len(before) < len(plan_ids)
    victim.power_on()
    until(lambda: victim.address in up.alive() and raylet_runs(victim), "the host to join again", seconds=240)
    timed("power off to joined again", time.monotonic() - lost)

    until(lambda: len(done()) == len(plan_ids), "the sweep to end", seconds=1500, every=2)
    timed("sweep", time.monotonic() - started)
    status = "ray job status --address http://127.0.0.1:8265 " + job
    until(lambda: "succeeded" in up.on_head(status).lower(), "the job to succeed", seconds=60)

    hosts_of = {run_id: host_of(store, run_id) for run_id in plan_ids}
    assert len(set(hosts_of.values())) >= 2
    assert victim.name in {host for run_id, host in hosts_of.items() if run_id not in before}

    said = up.command("w2s", "status", spec, "--storage", STORAGE)
    assert "100% of the FLOPs" in said
    up.command("w2s", "run", spec, "--storage", up.folder / "alone", "--no-report", seconds=1500)
    alone = Store(up.folder / "alone")
    for run_id in plan_ids:
        if "predictions.parquet" in (store.done(run_id) or pytest.fail(run_id)).files:
            here, there = (pl.read_parquet(s.read(run_id, "predictions.parquet")) for s in (alone, store))
            assert here.equals(there), run_id
    assert tables(up, up.folder / "alone").equals(tables(up, STORAGE))

    up.command("ray", "down", "-y", up.cluster)
    until(lambda: not ray_processes(up.machines.head), "Ray to end on the head", seconds=60)
    for host in up.machines.workers:  # of machines of one's own, ray down stops the head alone: docs/cluster.md
        up.on(host, "ray stop")
        until(lambda host=host: not ray_processes(host), f"Ray to end on {host.name}", seconds=60)
    figures["runs per host"] = {name: list(hosts_of.values()).count(name) for name in sorted(set(hosts_of.values()))}  # type: ignore[assignment]
    print(json.dumps(figures))


GROWABLE = """\
from sweep.execution.cluster import connected, prepare_environment
prepare_environment()
with connected("auto") as cluster:
    print("growable:", *sorted((sorted(kind.items()) for kind in cluster.growable), key=lambda kind: kind[0]))
    print("has GPUs:", cluster.has_gpus)
"""


def test_types_that_the_autoscaler_may_add_are_known_before_they_are_up(up: Up):
    """Of cluster.yaml, with Ray's first autoscaler and its second; they ask moto's server, which has no machines."""
    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))  # as ray up sends it to a head
    files = {"aws.yaml": yaml.safe_dump(config | {"file_mounts": {}}), "growable.py": GROWABLE}
    for name, text in files.items():
        (up.machines.head.home / name).write_text(text)
    for package in ("w2s", "sweep", "analysis"):
        shutil.copytree(ROOT / package, up.machines.head.home / "w2s-sweep" / package)
    for second in (0, 1):
        up.on_head(
            f"export RAY_enable_autoscaler_v2={second}; ray start --head --num-cpus=1 "
            "--object-store-memory=100000000 --include-dashboard=false --autoscaling-config=~/aws.yaml"
        )
        said = up.on_head("python ~/growable.py")
        assert "growable: [('CPU', 8.0), ('GPU', 1.0), ('train_slot', 1.0)] [('CPU', 96.0)," in said
        assert "has GPUs: True" in said
        up.on_head("ray stop")


def test_nothing_is_left_of_the_hosts(up: Up):
    assert hosts.traces()
    hosts.remove()
    assert hosts.traces() == []


def tables(up: Up, storage: object) -> pl.DataFrame:
    out = up.folder / "pairs.parquet"
    up.command("w2s", "export", storage, out)
    return pl.read_parquet(out)


def ray_processes(host: Host) -> list[str]:
    return [line for line in host.processes() if "ray" in line]


def raylet_runs(host: Host) -> bool:
    return any("raylet/raylet" in line for line in host.processes())
