"""Ray Tune's reuse of processes, without stopping those that are about to start.

When a run ends, Tune gives its process to the run that waits first, and stops the process that was starting for that
one. Where somewhere a run ends more often than a process needs to start, as on a large cluster, a node that joins is
then never used: with three nodes and runs of 2 s, eight processes in a row were stopped on the new one as soon as they
were there (Ray 2.60, measured).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

_NEEDED = ("_maybe_reuse_cached_actor", "_schedule_trial_actor", "_maybe_add_actors")


@contextlib.contextmanager
def starting_kept(wanted: bool = True) -> Iterator[None]:
    """Within this, a run whose process is starting keeps it, and a free process goes to the next run that waits.

    Tune has no option for it, so a method of its controller is replaced; where another Ray has none of that name, this
    does nothing.
    """
    from ray.tune.execution.tune_controller import TuneController

    if not wanted or not all(hasattr(TuneController, name) for name in _NEEDED):
        yield
        return
    original = TuneController._maybe_reuse_cached_actor

    def reuse(self: Any, trial: Any) -> bool:
        """Returns whether `trial` got the free process."""
        if not _is_starting(self, trial):
            return original(self, trial)
        other = _next_waiting(self, trial)
        if other is not None and original(self, other) and other not in self._staged_trials:
            self._staged_trials.add(other)
            self._actor_cache.increase_max(other.placement_group_factory)
        return False

    TuneController._maybe_reuse_cached_actor = reuse
    try:
        yield
    finally:
        TuneController._maybe_reuse_cached_actor = original


def _is_starting(controller: Any, trial: Any) -> bool:
    """Whether a process was created for a trial, and does not answer yet."""
    actor = controller._trial_to_actor.get(trial)
    if actor is None or trial in controller._resetting_trials:
        return False
    return controller._actor_manager.is_actor_started(actor) and actor not in controller._started_actors


def _next_waiting(controller: Any, than: Any) -> Any:
    """The trial behind `than` that waits for the same resources and has no process; None if there is none."""
    alike = controller._resources_to_pending_trials[than.placement_group_factory]
    waiting = [
        trial
        for trial in alike
        if trial is not than and trial not in controller._resetting_trials and not _is_starting(controller, trial)
    ]
    return min(waiting, key=lambda trial: (len(trial.trial_id), trial.trial_id), default=None)  # numbered as they came
