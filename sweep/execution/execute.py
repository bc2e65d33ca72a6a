"""One run, from the store to the store: fetch what it needs, run the science, write what it leaves. No Ray."""

import contextlib
import logging
import os
import platform
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl

from sweep.plan import Run
from sweep.storage.records import Heartbeat
from sweep.storage.scratch import fetch_state, forget_state, mirrored, scratch_folder
from sweep.storage.store import Attempt, Store
from w2s.config import PretrainRun

BEAT_EVERY_SECONDS = 10.0
LAST_BEAT_SECONDS = 10.0
"""How long the end of a run waits for a beat under way: no longer, whatever the storage does."""
_PACKAGES = ("w2s-sweep", "torch", "transformers", "tokenizers", "polars", "numpy", "ray")
_log = logging.getLogger("w2s")


@dataclass(frozen=True)
class Placement:
    """Where and how a run executes. Nothing here changes its result beyond rounding."""

    device: str = "cpu"
    rank: int = 0
    world: int = 1
    sharded: bool = False
    """On several devices: parameters are cut over them (FSDP2), instead of the whole model on each."""
    micro_batch_divisor: int = 1
    checkpoint_every_seconds: float = 600.0
    should_stop: Callable[[], bool] | None = None
    """Asked often while a run trains; once true, the run saves its state and raises `InterruptedRunError`."""


def execute(run: Run, store: Store, placement: Placement, science: "Science | None" = None) -> bool:
    """Run a run and mark it done. On several devices every rank calls this; rank 0 writes.

    Args:
        science: What computes the result; benchmarks of the engine put nothing in its place.

    Returns:
        Whether this attempt became the run's result; False if another driver's was there first, with an equal result.

    Raises whatever went wrong, after it was recorded in the store. An `InterruptedRunError` is no failure: nothing is
    recorded, and the state it left stays for the next attempt.
    """
    science = science or run_science
    fetch_state(store, run.run_id, shared=placement.world > 1)
    if placement.rank > 0:
        science(run, store, placement, lambda fraction: None)
        if not store.is_local:  # this machine's copy
            shutil.rmtree(scratch_folder(store, run.run_id), ignore_errors=True)
        return True
    uuid = uuid4().hex
    # the pulse goes on while results are uploaded: without one, another machine's `w2s gc` might take the attempt
    with (
        Pulse(store, run.run_id, uuid) as pulse,
        store.writing(run.run_id, uuid) as attempt,
        _log_to(attempt.folder / "log.txt"),
        mirrored(store, run.run_id),
    ):
        started = time.perf_counter()
        _log.info("%s (%s) on %s, host %s", run.label, run.run_id, placement.device, socket.gethostname())
        result = science(run, store, placement, pulse)
        _write(run, result, attempt, placement, seconds=time.perf_counter() - started)
    forget_state(store, run.run_id)
    return attempt.won


class Pulse:
    """Tells the store every few seconds, from a thread of its own, that a run is alive and how far it is."""

    def __init__(self, store: Store, run_id: str, attempt: str) -> None:
        self._store, self._run_id, self._attempt = store, run_id, attempt
        self._fraction = 0.0
        self._from_fraction: float | None = None
        self._from_time: float | None = None
        self._started = time.time()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __call__(self, fraction: float) -> None:
        """Note the fraction done."""
        if self._from_fraction is None:
            self._from_fraction, self._from_time = fraction, time.time()
        self._fraction = fraction

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join(LAST_BEAT_SECONDS)
        self._store.end_beat(self._run_id, self._attempt)

    def heartbeat(self) -> Heartbeat:
        """What there is to tell now."""
        return Heartbeat(
            self._attempt,
            socket.gethostname(),
            os.getpid(),
            time.time(),
            self._fraction,
            self._started,
            self._from_fraction or 0.0,
            self._from_time,
        )

    def _beat(self) -> None:
        while True:
            self._store.beat(self._run_id, self.heartbeat())
            if self._ended.wait(BEAT_EVERY_SECONDS):
                return


Science = Callable[[Run, Store, Placement, Callable[[float], None]], Any]
"""From a run to its `w2s.experiment.RunResult`; the last argument is told the fraction done."""


def run_science(run: Run, store: Store, placement: Placement, on_progress: Callable[[float], None]) -> Any:
    """Fetch what the run needs from its parents and hand it to `w2s.experiment.run_one`."""
    from w2s.experiment import Inputs, Shard, run_one  # torch, so not when only planning

    folder = {p.role: str(store.folder(p.run_id, "weights")) for p in run.parents if p.artefact == "weights"}
    activations = [store.folder(p.run_id, p.artefact) for p in run.parents if p.artefact == "activations"]
    predictions = {p.role: _final_predictions(store, p.run_id) for p in run.parents if p.artefact == "predictions"}
    source = run.model.source if run.model else None
    inputs = Inputs(
        model_path=folder.get("base") or (source.path if source else None),
        tokenizer_path=folder.get("tokenizer"),
        weak_labels=predictions.get("supervisor"),
        predictions=predictions,
        activations_dir=activations[0] if activations else None,
        cache_dir=store.cache,
        scratch_dir=scratch_folder(store, run.run_id),
        device=placement.device,
        shard=Shard(rank=placement.rank, world=placement.world, sharded=placement.sharded),
        micro_batch_divisor=placement.micro_batch_divisor,
        checkpoint_every_seconds=placement.checkpoint_every_seconds,
        on_progress=on_progress,
        should_stop=placement.should_stop,
        keep_weights=run.keep_weights,
    )
    return run_one(run.spec, inputs)


def _final_predictions(store: Store, run_id: str) -> pl.DataFrame:
    frame = pl.read_parquet(store.read(run_id, "predictions.parquet"))
    answers = frame.schema["prediction"] == pl.String
    said = ("prediction", "log_prob") if answers else ("p",)
    return frame.filter(pl.col("step") == pl.col("step").max()).select("example_id", *said)


def _write(run: Run, result: Any, attempt: Attempt, placement: Placement, *, seconds: float) -> None:
    description = run.describe()
    flops = description.pop("pretrain_flops")
    metrics = dict(result.metrics)
    if not isinstance(run.spec, PretrainRun):
        metrics["pretrain_flops"] = flops
    metrics |= {"seconds": seconds, "host": socket.gethostname()}
    metrics |= {"devices": placement.world, "sharded": placement.sharded}
    attempt.write_json("run.json", {**description, "versions": _versions()})
    attempt.write_json("metrics.json", metrics)
    result.history.write_parquet(attempt.folder / "history.parquet")
    if result.predictions is not None:
        result.predictions.write_parquet(attempt.folder / "predictions.parquet")
    if run.keep_weights and result.save_weights is not None:
        result.save_weights(attempt.folder / "weights")
    if result.save_activations is not None:
        result.save_activations(attempt.folder / "activations")


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(ImportError):
            found[package] = version(package)
    return found


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Everything logged during a run, warnings included, goes to its log as well."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, level = logging.getLogger(), _log.level
    root.addHandler(handler)
    _log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        _log.setLevel(level)
        root.removeHandler(handler)
        handler.close()
