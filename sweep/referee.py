"""What Tune tells its scheduler and its stopper, beside the searcher: why a trial was lost, and when nothing runs."""

from collections.abc import Callable
from typing import Any

from ray.tune import Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from sweep.deaths import Death, death_of


class Referee(FIFOScheduler):
    """First come, first served; remembers what Ray said when a trial's process was lost."""

    def __init__(self) -> None:
        super().__init__()
        self._deaths: dict[str, Death] = {}
        self._controller: Any = None

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._controller = tune_controller

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Comes just before the searcher is told that there was an error, but not which."""
        self._deaths[trial.trial_id] = death_of(trial.get_pickled_error())

    def death_of(self, trial_id: str) -> Death:
        return self._deaths.pop(trial_id, Death())

    @property
    def n_running(self) -> int:
        """Trials that are with a process; pending ones wait for theirs."""
        trials = [] if self._controller is None else list(self._controller.get_live_trials())
        return sum(trial.status == Trial.RUNNING for trial in trials)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles it with its own files, which nobody reads."""
        return {}


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
