"""The Ray that a plan is executed on: a running cluster, or one of our own on this machine."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweep.errors import SweepError

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
    """A connection to a running cluster, or a Ray of our own on this machine for as long as the sweep takes."""
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
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster at '{address}' cannot be reached" if address else "Ray did not start on this machine"
        raise SweepError(f"{where}: {str(error).splitlines()[0]}") from None
    try:
        _is_own = not address
        yield _cluster(is_own=_is_own)
    finally:
        if not _keep:
            ray.shutdown()


def _cluster(*, is_own: bool) -> Cluster:
    import ray

    return Cluster(tuple(node["Resources"] for node in ray.nodes() if node["Alive"]), is_own=is_own)
