"""Telling experiment trackers of finished runs, through Ray Tune's own logger callbacks.

Each tracker has a thread and a queue: one that is slow or gone delays nothing and fails nothing. A run is told at most
once, and whatever could not be told, the next `w2s run` tells.
"""

import contextlib
import hashlib
import json
import logging
import os
import queue
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from ray import tune
from ray.air.constants import TRAINING_ITERATION

from sweep.errors import SweepError
from sweep.execution.schedule import OUTCOME
from sweep.execution.tracking import Page, TrackingJob, read_page, short_id
from sweep.storage.filesystems import create_if_absent
from sweep.storage.secrets import without_credentials
from sweep.storage.store import Store
from sweep.tracking_block import Mlflow, TensorBoard, Wandb

PATIENCE_SECONDS = 180.0
"""At the end of a sweep, how long trackers may take for one run before they are left behind."""
FAILURES = 3
"""In a row; then a tracker is left alone until the next `w2s run`."""
AT_ONCE = 4
"""Runs that wandb is told at a time: each takes two processes of Ray's."""


class Tracker(Protocol):
    """One place that runs are shown in. Used from a single thread, but for `knows`."""

    name: str

    def knows(self, run_id: str) -> bool: ...
    def log(self, page: Page) -> None:
        """Show a run. Whatever is raised is reported, and the sweep goes on."""

    def settle(self) -> dict[str, Exception]:
        """Finish what was begun; the runs that failed."""
        ...


class Shown:
    """What Ray Tune's loggers ask of a trial, said of a run: the name, folder and parameters that people see."""

    def __init__(self, page: Page, *, sweep: str, folder: Path) -> None:
        self.trial_id = page.run_id
        self.config = dict(page.config)
        self.evaluated_params = self.config
        self.experiment_dir_name = sweep
        self.local_path = str(folder)
        self._name = page.name

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self._name


def _tell(callback: Any, page: Page, shown: Shown) -> None:
    """What Tune would tell a logger of a trial, from start to end."""
    shown.init_local_path()
    callback.log_trial_start(shown)
    for step, values in page.rows:
        # all three take this key as the step; Tune's clocks and counters mean nothing here
        callback.log_trial_result(step, shown, {**values, TRAINING_ITERATION: step})
    callback.log_trial_end(shown, failed=False)


class TensorBoardTracker:
    """A folder of event files per run; one that has no mark was cut short, and is written anew."""

    name = "tensorboard"
    MARK = ".complete"

    def __init__(self, settings: TensorBoard, job: TrackingJob) -> None:
        from ray.tune.logger import TBXLoggerCallback

        self._sweep = job.name
        self.folder = Path(settings.folder or f"{job.folder}/tensorboard").expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._known = {mark.parent.name.rpartition("_")[2] for mark in self.folder.glob(f"*/{self.MARK}")}
        except OSError as error:
            raise SweepError(f"tracking.tensorboard.folder: {self.folder}: {error.strerror or error}") from None
        self._callback = TBXLoggerCallback()

    @property
    def where(self) -> str:
        return f"TensorBoard files in {self.folder} (tensorboard --logdir '{self.folder}')"

    def knows(self, run_id: str) -> bool:
        return short_id(run_id) in self._known

    def log(self, page: Page) -> None:
        folder = self.folder / page.folder
        shutil.rmtree(folder, ignore_errors=True)
        _tell(self._callback, page, Shown(page, sweep=self._sweep, folder=folder))
        (folder / self.MARK).touch()
        self._known.add(short_id(page.run_id))

    def settle(self) -> dict[str, Exception]:
        return {}


class MlflowTracker:
    """An experiment in MLflow, which itself says what it has."""

    name = "mlflow"

    def __init__(self, settings: Mlflow, job: TrackingJob) -> None:
        self._sweep, self._folder = job.name, Path(job.folder)
        uri = settings.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{self._folder.parent.absolute()}/mlflow.db"
        self._uri, self._experiment = uri, settings.experiment or job.title
        # MLflow's own: 7 retries with back-off, minutes for each of a run's hundred requests
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        try:
            import mlflow
            from ray.air.integrations.mlflow import MLflowLoggerCallback

            for logger in ("mlflow", "alembic"):  # on making a database
                logging.getLogger(logger).setLevel(logging.WARNING)
            self._callback = MLflowLoggerCallback(uri, experiment_name=self._experiment)
            self._callback.setup()
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            self._known = {run.data.tags["w2s.run_id"] for run in self._runs() if run.info.status == "FINISHED"}
        except Exception as error:  # whatever the HTTP client or database driver of the day raises
            shown = without_credentials(uri)
            raise SweepError(
                f"tracking.mlflow: {shown} cannot be used: {_first_line(error).replace(uri, shown)}; start the server,"
                " correct tracking_uri, or take mlflow out of the spec's tracking"
            ) from None

    @property
    def where(self) -> str:
        return f"MLflow experiment {self._experiment} at {without_credentials(self._uri)}"

    def _runs(self, run_id: str | None = None) -> Iterator[Any]:
        """Those of this sweep, all or with one id."""
        wanted = f"tags.`w2s.sweep` = '{self._sweep}'" + (f" and tags.`w2s.run_id` = '{run_id}'" if run_id else "")
        token = None
        while True:
            page = self._client.search_runs([self._callback.mlflow_util.experiment_id or ""], wanted, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def knows(self, run_id: str) -> bool:
        return run_id in self._known

    def log(self, page: Page) -> None:
        for run in list(self._runs(page.run_id)):
            if run.info.status == "FINISHED":  # by another driver
                return
            self._client.delete_run(run.info.run_id)  # cut short
        self._callback.tags = {"w2s.sweep": self._sweep, "w2s.run_id": page.run_id}
        _tell(self._callback, page, Shown(page, sweep=self._sweep, folder=self._folder))
        self._known.add(page.run_id)

    def settle(self) -> dict[str, Exception]:
        return {}


class WandbTracker:
    """A project of Weights & Biases. What was told is marked in the store: its own server may be out of sight."""

    name = "wandb"

    def __init__(self, settings: Wandb, job: TrackingJob) -> None:
        import wandb
        from ray.air.integrations.wandb import WandbLoggerCallback

        self._sweep, self._store = job.name, job.store
        project = settings.project or os.environ.get("WANDB_PROJECT") or job.title
        mode = settings.mode or os.environ.get("WANDB_MODE") or "online"
        self.folder = Path(settings.folder or job.folder).expanduser().absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SweepError(f"tracking.wandb.folder: {self.folder}: {error.strerror or error}") from None
        self._online = mode == "online"
        if self._online and not os.environ.get("WANDB_API_KEY") and not _logged_in(wandb):
            raise SweepError(
                "tracking.wandb: no credentials for Weights & Biases here; set WANDB_API_KEY, run `wandb login`, or"
                " give tracking.wandb mode: offline"
            )
        self._callback = WandbLoggerCallback(
            project=project,
            group=job.name,
            upload_timeout=int(PATIENCE_SECONDS),
            entity=settings.entity,
            mode=mode,
            dir=str(self.folder),
            # of the process that tells, not of the run
            settings={"console": "off", "x_disable_stats": True, "disable_git": True, "silent": True},
        )
        with _environment("WANDB_MODE", mode), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._callback.setup()
        target = [project, settings.entity, mode, None if self._online else str(self.folder)]
        digest = hashlib.sha256(json.dumps(target).encode()).hexdigest()[:8]
        self._place = job.store.path(*job.place.split("/"), "tracked", f"wandb-{digest}")
        self._known = _names_in(job.store, self._place)
        self._begun: dict[str, Any] = {}
        self._project = project

    @property
    def where(self) -> str:
        if self._online:
            return f"Weights & Biases project {self._project}, group {self._sweep}"
        return f"Weights & Biases, offline, in {self.folder}/wandb (wandb sync sends them)"

    def knows(self, run_id: str) -> bool:
        return run_id in self._known

    def log(self, page: Page) -> None:
        shown: Any = Shown(page, sweep=self._sweep, folder=self.folder)
        if not self._online:  # there may be one that was cut short
            for old in self.folder.glob(f"wandb/offline-run-*-{page.run_id}"):
                shutil.rmtree(old, ignore_errors=True)
        with _environment("WANDB_API_KEY", os.environ.get("WANDB_API_KEY") if self._online else None):
            self._callback.log_trial_start(shown)  # hands the key, if there is one, to Ray's process
        self._begun[page.run_id] = self._callback._trial_logging_futures.get(shown)  # else its errors would be lost
        for step, values in page.rows:
            self._callback.log_trial_result(step, shown, {**values, TRAINING_ITERATION: step})
        self._callback.log_trial_end(shown)

    def settle(self) -> dict[str, Exception]:
        import ray

        self._callback.on_experiment_end([])  # waits for its processes
        self._store.fs.makedirs(self._place, exist_ok=True)
        failed: dict[str, Exception] = {}
        for run_id, future in self._begun.items():
            try:
                if future is not None:
                    ray.get(future, timeout=1)
                create_if_absent(self._store, f"{self._place}/{run_id}", b"")
                self._known.add(run_id)
            except Exception as error:
                failed[run_id] = error
        self._begun.clear()
        return failed


class Teller(threading.Thread):
    """Tells one tracker of one run after the other."""

    def __init__(self, tracker: Tracker, read: Callable[[str], Page], say: Callable[[str], None]) -> None:
        super().__init__(daemon=True, name=f"w2s-{tracker.name}")
        self.tracker, self._read, self._say = tracker, read, say
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._failures = 0
        self._over = threading.Event()
        self.moved = time.monotonic()
        self.untold: set[str] = set()
        """Runs that the tracker has not taken, or not yet."""

    def tell(self, run_id: str) -> None:
        if not self.tracker.knows(run_id):
            self.untold.add(run_id)
            self._queue.put(run_id)

    def run(self) -> None:
        open_ended: list[str] = []
        while not self._over.is_set():
            run_id = self._queue.get()
            if run_id is not None and self._attempt(run_id, lambda run_id=run_id: self._log(run_id)):
                open_ended.append(run_id)
            if open_ended and (run_id is None or self._queue.empty() or len(open_ended) >= AT_ONCE):
                self._settle(open_ended)
                open_ended = []
            self.moved = time.monotonic()
            if run_id is None:
                return

    def _log(self, run_id: str) -> None:
        if not self.tracker.knows(run_id):
            self.tracker.log(self._read(run_id))

    def _settle(self, run_ids: list[str]) -> None:
        failed: dict[str, Exception] = {}
        if self._attempt(run_ids[0], lambda: failed.update(self.tracker.settle())):
            self.untold -= set(run_ids) - set(failed)
        for run_id, error in failed.items():
            self._count(run_id, error)

    def _attempt(self, run_id: str, action: Callable[[], None]) -> bool:
        if self._failures >= FAILURES:
            return False
        try:
            action()
        except Exception as error:  # a tracker's trouble is never the sweep's
            self._count(run_id, error)
            return False
        self._failures = 0
        return True

    def _count(self, run_id: str, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            self._say(f"tracking: {self.tracker.name} did not take {run_id}: {_first_line(error)}; the sweep goes on")
        elif self._failures == FAILURES:
            self._say(f"tracking: {self.tracker.name} failed {FAILURES} times and is left alone until the next w2s run")

    def close(self) -> None:
        """Wait while it gets on, and leave it behind when it no longer does."""
        self._queue.put(None)
        self.moved = time.monotonic()
        while self.is_alive() and time.monotonic() - self.moved < PATIENCE_SECONDS:
            self.join(timeout=0.2)
        self._over.set()
        if self.untold:
            self._say(
                f"tracking: {self.tracker.name} has not taken {len(self.untold)} finished run"
                f"{'s' if len(self.untold) > 1 else ''}; the same command tells it again"
            )


class Trackers:
    """All trackers of a sweep, open."""

    def __init__(self, tellers: list[Teller]) -> None:
        self._tellers = tellers
        self._closed = False
        self.callback = ToTrackers(self)
        """For Ray Tune."""

    def start(self) -> None:
        """Begin to tell. Not before Ray is connected: wandb is told through its processes."""
        for teller in self._tellers:
            if teller.ident is None:
                teller.start()

    def done(self, run_id: str) -> None:
        """A run is in the store."""
        for teller in self._tellers:
            teller.tell(run_id)

    @property
    def behind(self) -> bool:
        """Whether there are runs that a tracker does not have yet."""
        return any(teller.untold for teller in self._tellers)

    def close(self) -> None:
        """Tell what is left, within patience."""
        if not self._closed:
            self._closed = True
            self.start()
            for teller in self._tellers:
                teller.close()


class ToTrackers(tune.Callback):
    """Passes on from Ray Tune which runs are done. Never raises: Tune would count that as a failure of the run."""

    def __init__(self, trackers: Trackers) -> None:
        self._trackers = trackers

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        self._trackers.start()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        if (trial.last_result or {}).get(OUTCOME) == "done":
            self._trackers.done(trial.config["run_id"])

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        self._trackers.close()

    def __reduce__(self) -> tuple:
        return (tune.Callback, ())  # Tune pickles its settings, which nobody reads; a thread cannot be pickled


def open_trackers(job: TrackingJob) -> Trackers:
    """See `TrackingJob.open`."""
    chosen = job.tracking
    trackers: list[Any] = []
    if chosen.tensorboard is not None:
        trackers.append(TensorBoardTracker(chosen.tensorboard, job))
    if chosen.wandb is not None:
        trackers.append(WandbTracker(chosen.wandb, job))
    if chosen.mlflow is not None:
        trackers.append(MlflowTracker(chosen.mlflow, job))
    for tracker in trackers:
        print(f"tracking: {tracker.where}")
    read = lru_cache(maxsize=64)(lambda run_id: read_page(job.store, run_id))
    opened = Trackers([Teller(tracker, read, _say) for tracker in trackers])
    for run_id in sorted(job.earlier):
        opened.done(run_id)
    return opened


def _logged_in(wandb: Any) -> bool:
    with warnings.catch_warnings(), contextlib.redirect_stderr(None):
        warnings.simplefilter("ignore")
        try:
            return bool(wandb.login(prompt=False, verify=False))
        except TypeError:  # before wandb 0.31 it could only prompt
            return bool(wandb.api.api_key)
        except Exception:  # malformed credentials, among others
            return False


def _names_in(store: Store, place: str) -> set[str]:
    try:
        return {str(entry).rstrip("/").rpartition("/")[2] for entry in store.fs.ls(place, detail=False)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


@contextlib.contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """A variable of this process set for a moment, or taken away."""

    def put(value: str | None) -> None:
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value

    before = os.environ.get(name)
    put(value)
    try:
        yield
    finally:
        put(before)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _first_line(error: BaseException) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    return line.strip()[:300] or type(error).__name__
