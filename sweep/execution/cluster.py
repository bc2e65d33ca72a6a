"""The Ray that a plan is executed on: a running cluster, or one of our own on this machine."""

import contextlib
import functools
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sweep.errors import SweepError

if TYPE_CHECKING:
    from sweep.plan import Run
    from sweep.storage.store import Store

OBJECT_STORE_BYTES = 200 * 1024 * 1024
"""For Ray's shared memory on a laptop: it holds the plan and little else."""


@dataclass(frozen=True)
class Cluster:
    """What a Ray cluster has, and what it may become."""

    nodes: tuple[Mapping[str, float], ...]
    """Resources of each node that is up."""
    growable: tuple[Mapping[str, float], ...] = ()
    """Resources of each type of node that its autoscaler may add."""
    is_own: bool = False
    """Whether it was started by us, on this machine alone."""

    @property
    def kinds(self) -> tuple[Mapping[str, float], ...]:
        """Resources of every node that a run could be placed on, now or later."""
        return (*self.nodes, *self.growable)

    @property
    def has_gpus(self) -> bool:
        return any(node.get("GPU", 0) > 0 for node in self.kinds)


def prepare_environment() -> None:
    """Settings that Ray reads when it is imported or started; a user's own values win."""
    for name, value in {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # runs without a GPU keep CUDA_VISIBLE_DEVICES as it is
        "RAY_DEDUP_LOGS": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a third of the cost per run, for files nobody reads
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def ray_kept() -> Iterator[None]:
    """Within this, the Ray that a `run_plan` started serves the next ones; starting one takes seconds."""
    global _keep
    _keep = True
    try:
        yield
    finally:
        _keep = False
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            ray.shutdown()


_keep = False
_is_own = True


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """A connection to a running cluster, or a Ray of our own on this machine for as long as the sweep takes.

    Raises:
        SweepError: There is no such cluster, it refuses us, or its nodes have other versions than we.
    """
    global _is_own
    import ray

    if _keep and ray.is_initialized():
        yield _cluster(is_own=_is_own)
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if not address:
        cpus = len(os.sched_getaffinity(0))
        options |= {
            "address": "local",
            "num_cpus": cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "resources": {"train_slot": cpus},
        }
    else:
        check_reachable(address)
        options["address"] = address
        if carried := carried_environment():
            options["runtime_env"] = {"worker_process_setup_hook": _setting(carried)}
    try:
        with _daemons_in_groups_of_their_own():
            context = ray.init(**options)
    except Exception as error:  # of all kinds; a start that takes too long is a plain Exception
        if not address:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise SweepError(f"Ray did not start on this machine: {reason}") from None
        raise SweepError(explain_refusal(address, str(error))) from None
    try:
        _is_own = not address
        if not _is_own:
            check_versions(look_at_nodes())
            if link := getattr(context, "dashboard_url", None):
                print(f"Ray dashboard: http://{link} (on the head node; see docs/cluster.md)", flush=True)
        yield _cluster(is_own=_is_own)
    finally:
        if not _keep:
            ray.shutdown()


@contextlib.contextmanager
def _daemons_in_groups_of_their_own() -> Iterator[None]:
    """Processes that Ray starts meanwhile leave our process group: a SIGTERM to the group, as `timeout` sends it, is a
    request to us, and would take Ray from under the runs that are to save their states. They still die with us, by a
    death signal that Ray asks the kernel for.

    Ray does so itself on Windows. The class is private: without it, Ray's processes stay where they were.
    """
    from ray._private import services

    popen = getattr(services, "ConsolePopen", None)
    if popen is None or sys.platform != "linux":
        yield
        return
    services.ConsolePopen = functools.partial(popen, process_group=0)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        services.ConsolePopen = popen


def ended_children() -> frozenset[int]:
    """Processes that this one started, as Ray's are, and that have ended before it.

    After a SIGTERM to every process of a job, Ray's monitors end. Its servers do not, but wait for one another, and
    everybody for them.
    """
    import psutil

    ended = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.status() == psutil.STATUS_ZOMBIE:
                ended.add(child.pid)
    return frozenset(ended)


def _cluster(*, is_own: bool) -> Cluster:
    import ray

    nodes = tuple(node["Resources"] for node in ray.nodes() if node["Alive"])
    return Cluster(nodes, growable=() if is_own else growable_types(), is_own=is_own)


# -- reaching it -----------------------------------------------------------------------------------------------

CONNECT_SECONDS = 5.0
PROBE_SECONDS = 45.0
"""Ray gives up after 20 s when a cluster refuses us, but only after 163 s when nobody answers, and then ends the
process (2.60, measured): a process of its own tries first, for this long."""
_PROBE = "import logging, sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)"


def check_reachable(address: str) -> None:
    """Raises SweepError unless a driver on this machine can work on the cluster at `address`."""
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):  # we are a job of this cluster
        return
    if address.startswith("ray://"):
        raise SweepError(
            f"--address {address}: a sweep is driven from a node of the cluster, not through a Ray client; "
            "w2s submit sends it there, or log in to the head node and give --address auto"
        )
    known = _here() if address == "auto" else address
    if known:
        host, colon, port = known.rpartition(":")
        if not colon or not port.isdecimal():
            raise SweepError(f"--address {address}: auto or host:port is needed, such as 10.0.0.5:6379")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            why = f"no answer within {CONNECT_SECONDS:g} s" if isinstance(error, TimeoutError) else str(error)
            raise SweepError(
                f"the Ray cluster at '{address}' cannot be reached: {why}. The head's address, with the port of its "
                "`ray start --head`, is needed; on a node of the cluster `--address auto` finds it"
            ) from None
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise SweepError(
            f"what listens at '{address}' is no Ray cluster, or it hangs: no connection within {PROBE_SECONDS:g} s"
        ) from None
    if probe.returncode:
        raise SweepError(explain_refusal(address, probe.stderr))


def _here() -> str | None:
    """Address of the cluster that was last started or joined on this machine, which may be gone."""
    from ray._private.services import find_bootstrap_address

    return find_bootstrap_address(None) or None


def explain_refusal(address: str, said: str) -> str:
    """What a person can do about a failed `ray.init`, from what Ray said. Pure."""
    if "Unauthenticated" in said or "AuthenticationError" in said or "InvalidAuthToken" in said:
        return (
            f"the Ray cluster at '{address}' refuses us: it asks for a token, and there is none here, or another one. "
            "Copy ~/.ray/auth_token of its head node to this machine and set RAY_AUTH_MODE=token"
        )
    if mismatch := re.search(r"Version mismatch: (.*)", said, re.DOTALL):
        versions = " ".join(mismatch.group(1).split())
        return f"the Ray cluster at '{address}' has another version than this machine: {versions}"
    if "expects this IP address" in said or "No node" in said or "Can't find a" in said or "raylet" in said.lower():
        return (
            f"this machine is no node of the Ray cluster at '{address}'; a sweep is driven from one: "
            "w2s submit sends it there, or log in to the head node and give --address auto"
        )
    if "Could not find any running Ray instance" in said:
        return "--address auto: no Ray runs on this machine; ray start --head starts one, or give its host:port"
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "no reason given")
    return f"the Ray cluster at '{address}' cannot be reached: {last.strip()}"


CARRIED = (
    *("HF_TOKEN", "HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "W2S_CACHE"),
    *("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
"""Variables that workers get from the driver's environment. A node's own values win."""


def carried_environment() -> dict[str, str]:
    """What workers on other machines need and only the driver may have: access to the hub and to the storage."""
    found = {name: os.environ[name] for name in CARRIED if os.environ.get(name)}
    if "HF_TOKEN" not in found:  # as `hf auth login` leaves it
        home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
        with contextlib.suppress(OSError):
            if token := Path(os.environ.get("HF_TOKEN_PATH", home / "token")).read_text().strip():
                found["HF_TOKEN"] = token
    return found


def _setting(values: Mapping[str, str]) -> Callable[[], None]:
    """A hook that sets variables in a new worker process.

    Ray writes the `env_vars` of a runtime environment into its logs and shows them in its dashboard; a function's
    closure appears in neither.
    """

    def set_variables() -> None:
        import os

        own_keys = "AWS_ACCESS_KEY_ID" in os.environ  # half of one pair of keys and half of another open nothing
        for name, value in values.items():
            if not (own_keys and name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")):
                os.environ.setdefault(name, value)

    return set_variables


# -- what it may become ----------------------------------------------------------------------------------------


def growable_types() -> tuple[Mapping[str, float], ...]:
    """Resources of each type of node that the connected cluster's autoscaler may add; empty where it has none.

    Ray keeps no list of them that others can ask for (2.60; `get_cluster_config` has one on hosted clusters), so the
    file that the autoscaler was started with is read on the head node.
    """
    import ray
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is not None and config.node_group_configs:
        groups = [group for group in config.node_group_configs if group.max_count]
        return tuple({name: float(amount) for name, amount in group.resources.items()} for group in groups)
    head = next((n for n in ray.nodes() if n["Alive"] and "node:__internal_head__" in n["Resources"]), None)
    if head is None:
        return ()
    text = _on_nodes(_autoscaler_config, [head]).get(head["NodeID"])
    return worker_types(yaml.safe_load(text)) if isinstance(text, str) and text else ()


def worker_types(config: Any) -> tuple[Mapping[str, float], ...]:
    """Resources of the worker types in a cluster file, as Ray has completed it. Pure.

    Types without resources, as the local provider's, are left out: what they have is known when they are up.
    """
    if not isinstance(config, Mapping):
        return ()
    types: Mapping[str, Any] = config.get("available_node_types") or {}
    found = []
    for name, kind in types.items():
        limit = kind.get("max_workers", config.get("max_workers", 0))
        if name != config.get("head_node_type") and limit > 0 and kind.get("resources"):
            found.append({resource: float(amount) for resource, amount in kind["resources"].items()})
    return tuple(found)


def _autoscaler_config() -> Callable[[], str]:
    def read() -> str:
        """The cluster file of the autoscaler that runs on this node; empty if none does."""
        import glob
        import os

        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(path, "rb") as file:
                    words = file.read().decode(errors="replace").split("\0")
                if any(word.endswith("monitor.py") for word in words[:4]):
                    for word in words:
                        if word.startswith("--autoscaling-config="):
                            with open(os.path.expanduser(word.partition("=")[2])) as file:
                                return file.read()
            except OSError:
                continue
        return ""

    return read


def pending_runs(cluster: Cluster) -> int:
    """How many runs may wait for a process of their own at the same time. Pure.

    Tune's default for a searcher is one. Then an autoscaler is asked for one node at a time; and whenever a run ends,
    its process is given to the one that waits, and what was starting for that one is stopped: while runs are shorter
    than the start of a process, a node that joins may never be used (Ray 2.60, from source).
    """
    slots = sum(node.get("GPU", 0) or node.get("CPU", 0) for node in cluster.nodes)
    return int(min(64, max(4, slots) + (16 if cluster.growable else 0)))


# -- its nodes -------------------------------------------------------------------------------------------------

NODE_SECONDS = 90.0
"""How long a node may take to answer: its first Python process starts."""


@dataclass(frozen=True)
class NodeLook:
    """What a node has. Versions are None where a package is missing."""

    name: str
    python: str
    versions: Mapping[str, str | None]
    source: str
    """A hash of this project's code, which changes without its version."""
    missing: tuple[str, ...] = ()
    """Of the paths asked about, those that do not exist there."""


def look_at_nodes(paths: Sequence[str] = ()) -> list[NodeLook]:
    """Versions and missing paths of every node that is up; nodes that do not answer are named and left out."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    found = _on_nodes(lambda: _looker(tuple(paths)), nodes)
    looks = []
    for node in nodes:
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        look = found.get(node["NodeID"])
        if isinstance(look, dict):
            looks.append(NodeLook(name=name, **look))
        else:
            print(f"node {name} does not answer ({look}); going on without it", file=sys.stderr)
    return looks


def check_versions(looks: Sequence[NodeLook]) -> None:
    """Raises SweepError naming every node whose Python, packages or code differ from this process's."""
    here = NodeLook("here", **_looker(())())
    wrong = []
    for look in looks:
        differ = [
            f"{name} {there or 'missing'} (here {ours})" for name, ours, there in _compared(here, look) if ours != there
        ]
        if differ:
            wrong.append(f"node {look.name} has {', '.join(differ)}")
    if wrong:
        raise SweepError(
            "\n".join(wrong) + "\nAll nodes need the same versions, or results would depend on where they were made: "
            "ray up with the cluster file installs them; nodes started by hand need an environment like this, with "
            "the same PYTHONPATH. See docs/cluster.md"
        )


def check_places(runs: Iterable["Run"], store: "Store") -> None:
    """Raises SweepError if some node lacks a local file that a run reads, or does not see a local storage."""
    paths = dict(local_paths(runs))
    with contextlib.ExitStack() as stack:
        if store.is_local:  # a folder of the same name may be another one: only a new file tells
            Path(store.path()).mkdir(parents=True, exist_ok=True)
            probe = stack.enter_context(tempfile.NamedTemporaryFile(prefix=".seen-", dir=store.path()))
            paths[os.path.abspath(probe.name)] = f"storage '{store.root}' is a folder of this machine"
        if paths:
            check_paths(paths)


def local_paths(runs: Iterable["Run"]) -> Iterator[tuple[str, str]]:
    """Paths of this machine that runs read, each with what it is, as written in the spec."""
    for run in runs:
        if run.task is not None:
            task = run.task.spec
            files = (*task.train, *task.test) if task.source == "files" else (task.id,) if task.source == "hub" else ()
            for path in files:
                if os.path.isabs(path):
                    yield path, f"task '{task.name}'"
        if run.model is not None and run.model.source is not None and os.path.isabs(run.model.source.path):
            yield run.model.source.path, f"rung '{run.model.name}'"
        if run.pretrain is not None:
            for path in getattr(run.pretrain[1].corpus, "files", ()):
                yield path, "ladder.pretrain.corpus"


def check_paths(paths: Mapping[str, str]) -> None:
    """Raises SweepError for a path (with what it is) that some node of the connected cluster does not see."""
    missing = [(path, look.name) for look in look_at_nodes(tuple(paths)) for path in look.missing]
    if not missing:
        return
    lines = [f"{paths[path]}: node {name} has no {path}" for path, name in missing[:10]]
    raise SweepError(
        "\n".join(lines) + "\nw2s submit sends local files to all nodes; otherwise use a folder that all of them mount "
        "at the same path, or a storage such as s3://bucket/folder"
    )


def _compared(here: NodeLook, there: NodeLook) -> Iterator[tuple[str, str | None, str | None]]:
    def plain(version: str | None) -> str | None:
        """Without the build, such as +cpu or +cu128: workers with a GPU may have another one."""
        return version and version.partition("+")[0]

    yield "Python", here.python.rpartition(".")[0], there.python.rpartition(".")[0]
    for package, ours in here.versions.items():
        yield package, plain(ours), plain(there.versions.get(package))
    if there.versions.get("w2s-sweep") is not None:
        yield "w2s code", here.source, there.source


def _looker(paths: tuple[str, ...]) -> Callable[[], dict[str, Any]]:
    """A function that needs nothing of ours on the node where it runs: Ray sends it whole."""

    def look() -> dict[str, Any]:
        import hashlib
        import importlib.metadata
        import importlib.util
        import os
        import platform

        def version(package: str) -> str | None:
            try:
                return importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                return None

        digest = hashlib.sha256()
        for package in ("w2s", "sweep"):
            spec = importlib.util.find_spec(package)
            for root in (spec.submodule_search_locations or []) if spec else []:
                for folder, folders, files in os.walk(root):
                    folders.sort()
                    for name in sorted(files):
                        if name.endswith(".py"):
                            digest.update(os.path.relpath(os.path.join(folder, name), root).encode())
                            with open(os.path.join(folder, name), "rb") as file:
                                digest.update(file.read())
        packages = ("ray", "torch", "transformers", "tokenizers", "numpy", "polars", "w2s-sweep")
        return {
            "python": platform.python_version(),
            "versions": {package: version(package) for package in packages},
            "source": digest.hexdigest()[:12],
            "missing": tuple(path for path in paths if not os.path.exists(path)),
        }

    return look


def _on_nodes(make: Callable[[], Callable[[], Any]], nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a function returns on each node, at the same time; an exception where it does not. By node id."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(make())
    pending = {}
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        pending[node["NodeID"]] = task.options(num_cpus=0, scheduling_strategy=where, max_retries=1).remote()
    ray.wait(list(pending.values()), num_returns=len(pending), timeout=NODE_SECONDS)
    found = {}
    for node_id, reference in pending.items():
        try:
            found[node_id] = ray.get(reference, timeout=0)
        except GetTimeoutError:
            found[node_id] = f"nothing within {NODE_SECONDS:g} s"
        except RayError as error:
            found[node_id] = error
    return found
