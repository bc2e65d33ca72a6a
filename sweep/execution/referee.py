"""What Tune tells its scheduler and its stopper, beside the searcher: why a trial was lost, and when nothing runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune import Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from sweep.execution.deaths import Death, death_of


class Referee(FIFOScheduler):
    """First come, first served; remembers what Ray said when a trial's process was lost."""

    def __init__(self, has_begun: Callable[[str], bool] = lambda run_id: True) -> None:
        """
        Args:
            has_begun: Whether a run on several devices, whose trial has its process, has the others that it needs.
        """
        super().__init__()
        self._has_begun = has_begun
        self._deaths: dict[str, Death] = {}
        self._controller: Any = None
        self.last_words = ""
        """What Ray said of the last death that was asked for."""

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._controller = tune_controller

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Comes just before the searcher is told that there was an error, but not which."""
        self._deaths[trial.trial_id] = death_of(_error_of(trial))

    def death_of(self, trial_id: str) -> Death:
        """Asked once for each trial that ended without a result."""
        death = self._deaths.pop(trial_id, Death())
        self.last_words = death.detail
        return death

    @property
    def n_running(self) -> int:
        """Trials that can answer: pending ones wait for a process, and a worker group without its devices for those."""
        trials = [] if self._controller is None else list(self._controller.get_live_trials())
        return sum(trial.status == Trial.RUNNING and self._is_at_work(trial.config) for trial in trials)

    def _is_at_work(self, config: dict[str, Any]) -> bool:
        return config["shape"].get("devices", 1) == 1 or self._has_begun(config["run_id"])

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles it with its own files, which nobody reads."""
        return {}


def _error_of(trial: Trial) -> BaseException | None:
    """What Tune has just written to the trial's folder of the driver; `get_pickled_error` looks where it goes later."""
    path = trial.pickled_error_file
    if path is None:
        return None
    try:
        return cloudpickle.loads(Path(path).read_bytes())
    except Exception:  # an error of a class that this process does not know
        return None


class StopWhenAsked(Stopper):
    """Ends the experiment once it is to stop and no run is with a process, whatever still waits for one."""

    def __init__(self, stopping: Callable[[], bool], referee: Referee) -> None:
        self._stopping, self._referee = stopping, referee

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stopping() and self._referee.n_running == 0

    def __getstate__(self) -> dict[str, Any]:
        return {}
