"""What the experiment trackers of a sweep are told of a finished run.

Trackers are told of a run when it is done, from what its DONE names: they can neither show half a run nor keep one from
finishing, and can be told again later. `trackers` tells.
"""

import io
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from sweep.errors import SweepError
from sweep.storage.store import Store
from sweep.tracking_block import PACKAGES, Tracking

if TYPE_CHECKING:
    from sweep.execution.trackers import Trackers

EXTRA = "pip install 'w2s-sweep[track]'"


@dataclass(frozen=True)
class TrackingJob:
    """What is to be told to whom."""

    tracking: Tracking
    store: Store
    name: str
    """Id of the sweep or search: how trackers group its runs."""
    title: str
    """Name of the sweep: the default project and experiment."""
    place: str
    """Where in the store it lies, such as "sweeps/tiny-0a1b2c3d"."""
    earlier: frozenset[str] = frozenset()
    """Runs that are in the store already; trackers that do not have them yet are told first."""

    def check(self) -> None:
        """Raises SweepError if a package is missing; starts nothing."""
        for name in self.tracking.chosen:
            if find_spec(PACKAGES[name]) is None:
                extra = "pip install tensorboardX" if name == "tensorboard" else EXTRA
                raise SweepError(
                    f"tracking: {name} needs the package {PACKAGES[name]}, which is not installed here: {extra}"
                )

    @property
    def folder(self) -> str:
        """Where trackers that write files do so."""
        base = self.store.path("tracking") if self.store.is_local else os.path.abspath("tracking")
        return f"{base}/{self.name}"

    def open(self) -> "Trackers":
        """Connect to all trackers, and start telling them of earlier runs.

        Raises:
            SweepError: One cannot be used; says which, and what to do.
        """
        self.check()
        from sweep.execution.cluster import prepare_environment

        prepare_environment()
        from sweep.execution.trackers import open_trackers  # imports Ray, which reads the environment

        return open_trackers(self)

    def catch_up(self, address: str | None) -> None:
        """Tell of earlier runs alone, when there is nothing to run. Raises SweepError like `open`."""
        from sweep.execution.cluster import connected

        trackers = self.open()
        if trackers.behind:
            with connected(address):
                trackers.close()


def tracking_job(
    tracking: Tracking | None, store: Store, *, name: str, title: str, place: str, done: Iterable[str]
) -> TrackingJob | None:
    """What the trackers of a spec are to be told; None if there are none.

    Raises:
        SweepError: A package is missing.
    """
    if tracking is None or not tracking.chosen:
        return None
    job = TrackingJob(tracking, store, name, title, place, frozenset(done))
    job.check()
    return job


@dataclass(frozen=True)
class Page:
    """What a tracker is told of one run."""

    run_id: str
    name: str
    config: Mapping[str, Any]
    rows: tuple[tuple[int, Mapping[str, float]], ...]
    """Step and what was measured then, oldest first; the last has the run's totals as well."""

    @property
    def folder(self) -> str:
        """A name for a folder of its own."""
        words = re.sub(r"[^A-Za-z0-9._=+-]+", "_", self.name.replace("->", " to ")).strip("_.")
        return f"{words[:100]}_{short_id(self.run_id)}"


def short_id(run_id: str) -> str:
    """The hash of an id, without its kind."""
    return run_id.rpartition("-")[2][:12]


def read_page(store: Store, run_id: str) -> Page:
    """A finished run as its files tell it.

    Raises:
        StoreError: It is not done, or damaged.
    """
    run, metrics = store.read_json(run_id, "run.json"), store.read_json(run_id, "metrics.json")
    done = store.done(run_id)
    names = done.files if done else {}
    rows: dict[int, dict[str, float]] = {}
    if "history.parquet" in names:
        for row in pl.read_parquet(io.BytesIO(store.read(run_id, "history.parquet"))).to_dicts():
            rows.setdefault(int(row.pop("step")), {}).update(_numbers(row))
    if "predictions.parquet" in names:
        frame = pl.read_parquet(io.BytesIO(store.read(run_id, "predictions.parquet")))
        for step, scores in accuracies(frame).items():
            rows.setdefault(step, {}).update(scores)
    last = max(rows, default=int(metrics.get("steps") or 0))
    rows.setdefault(last, {}).update({f"total/{key}": value for key, value in _numbers(metrics).items()})
    return Page(run_id, readable(run), _config(run), tuple(sorted(rows.items())))


def accuracies(predictions: pl.DataFrame) -> dict[int, dict[str, float]]:
    """Accuracy of each part at each evaluation step: {step: {"test_accuracy": ...}}."""
    from analysis.metrics import accuracy

    found: dict[int, dict[str, float]] = {}
    for (split, step), part in predictions.group_by("split", "step"):
        key = f"{str(split).replace('/', '_')}_accuracy"
        found.setdefault(int(str(step)), {})[key] = accuracy(part["gold"].to_numpy(), part["prediction"].to_numpy())
    return found


def readable(run: Mapping[str, Any]) -> str:
    """A run's name as trackers show it: `facts d6->d16 confidence s0`.

    Args:
        run: Its run.json.
    """
    label = str(run["label"]).replace(" -> ", "->").replace(": ", " ", 1)
    return re.sub(r" seed (\d+)$", r" s\1", label)


def _config(run: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("run_id", "kind", "task", "form", "model", "seed", "train_part", "settings_id")
    config = {key: run[key] for key in keys} | {"method": run["method_label"]}
    config |= {"parents": _present(run["parents"]), "settings": _present(run["settings"] or {})}
    return _present(config)


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value != {}}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers; truth values count as 0 and 1."""
    numbers = {key: float(value) for key, value in values.items() if isinstance(value, bool | int | float)}
    return {key: value for key, value in numbers.items() if np.isfinite(value)}
