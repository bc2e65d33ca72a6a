"""Processes that are the ranks of a run, with real collectives between them (gloo on loopback)."""

import faulthandler
import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from w2s.config import RunSpec
from w2s.distributed import Shard
from w2s.errors import W2SError
from w2s.experiment import Inputs, run_one

AT_MOST_SECONDS = 240
"""A rank that waits for another for ever would keep the test waiting; it says where it stood and ends."""
PRELOADED = ["w2s.experiment", "w2s.sharding", "peft", "transformers.models.llama.modeling_llama"]


@dataclass(frozen=True)
class Job:
    """A run for all ranks together."""

    spec: RunSpec
    inputs: Inputs
    sharded: bool = False
    stop_after: int | None = None
    """Rank 1 alone wants to stop once it was asked so often."""
    save_to: Path | None = None


@dataclass
class Left:
    """What a job left on a rank."""

    result: Any = None
    error: W2SError | None = None
    made: dict[str, Any] = field(default_factory=dict)


def do(job: Job, shard: Shard) -> Left:
    shard = replace(shard, sharded=job.sharded)
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return shard.rank == 1 and asked == job.stop_after

    try:
        inputs = replace(job.inputs, shard=shard, should_stop=should_stop if job.stop_after else None)
        result = run_one(job.spec, inputs)
    except W2SError as error:
        return Left(error=error)
    if job.save_to and result.save_weights is not None and shard.is_first:
        result.save_weights(job.save_to)
    return Left(replace(result, save_weights=None), made={"weights here": result.save_weights is not None})


def on_ranks(jobs: Mapping[str, Job | Callable[[Shard], Any]], folder: Path, world: int = 2) -> dict[str, list[Any]]:
    """What each rank got from each job, in the order of jobs and ranks; a function is called with the rank's place."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    # One process imports everything and forks the ranks: that takes a second each instead of five.
    multiprocessing.set_forkserver_preload(PRELOADED)
    torch.multiprocessing.start_processes(
        _rank, (world, port, dict(jobs), folder), nprocs=world, start_method="forkserver"
    )
    per_rank = [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(world)]
    return {name: [left[name] for left in per_rank] for name in jobs}


def _rank(rank: int, world: int, port: int, jobs: dict[str, Any], folder: Path) -> None:
    faulthandler.dump_traceback_later(AT_MOST_SECONDS, exit=True)
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group(
        "gloo", rank=rank, world_size=world, timeout=timedelta(seconds=AT_MOST_SECONDS / 2)
    )
    try:
        shard = Shard(rank, world)
        left = {name: do(job, shard) if isinstance(job, Job) else job(shard) for name, job in jobs.items()}
        (folder / f"{rank}.pkl").write_bytes(pickle.dumps(left))
    finally:
        torch.distributed.destroy_process_group()
