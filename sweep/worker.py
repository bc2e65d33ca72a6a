"""The Ray Tune trainable: a process that stays warm and takes one run after the other, each through Ray Train."""

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray.train
import ray.train.torch
from ray import tune
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from sweep.execute import Placement, execute
from sweep.plan import Run
from sweep.schedule import OUTCOME
from sweep.store import Store
from w2s.errors import OutOfMemoryError


class RunTrainable(tune.Trainable):
    """One `step` is one run. `setup` and `reset_config` have no effects: Tune may discard an actor that never steps."""

    def setup(self, config: dict, runs: Mapping[str, Run] | None = None, store: Store | None = None, **options: Any) -> None:
        assert runs is not None and store is not None
        self._runs, self._store, self._options = runs, store, options
        self._config = config

    def reset_config(self, new_config: dict) -> bool:
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        run = self._runs[self._config["run_id"]]
        placement = Placement(micro_batch_divisor=self._config["divisor"], **self._options)
        devices = int(self._config["shape"].get("devices", 1))
        try:
            train(run, self._store, placement, devices=devices, gpus=self._config["shape"].get("GPU", 0))
        except OutOfMemoryError as error:
            return {"done": True, OUTCOME: "out_of_memory", "message": str(error)}
        except Exception as error:  # recorded in the store already; the process is sound and takes the next run
            if _device_is_broken(error):
                raise
            return {"done": True, OUTCOME: "failed", "message": _first_line(error)}
        return {"done": True, OUTCOME: "done"}


def train(run: Run, store: Store, placement: Placement, *, devices: int, gpus: float) -> None:
    """Execute one run through Ray Train: in this process for one device, in a worker group for several."""
    raised: list[Exception] = []

    def loop() -> None:
        context = ray.train.get_context()
        here = replace(
            placement,
            device=str(ray.train.torch.get_device()) if gpus else "cpu",
            rank=context.get_world_rank(),
            world=context.get_world_size(),
        )
        try:
            execute(run, store, here)
        except Exception as error:
            raised.append(error)  # Train would wrap it, and log it as a crash
            if devices > 1:
                raise

    with tempfile.TemporaryDirectory(prefix="w2s-train-") as folder:
        TorchTrainer(
            loop,
            scaling_config=ScalingConfig(
                num_workers=devices if devices > 1 else 0, use_gpu=bool(gpus), resources_per_worker=None
            ),
            run_config=ray.train.RunConfig(storage_path=folder, name="run"),
        ).fit()
    if raised:
        raise raised[0]


def _device_is_broken(error: Exception) -> bool:
    """After a CUDA error other than running out of memory, nothing in this process can be trusted."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def quiet() -> None:
    """Ray's own chatter out of the way of the progress display; every run has its log in the store."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2", "1")
    for name in ("ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
