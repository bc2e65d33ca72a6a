"""The study of a search: candidates asked and told, kept by Optuna. The only module that talks to Optuna's study.

A candidate is a trial. It is created, gets its parameters one by one, then `params` among its attributes, then notes,
then its end. A driver may be killed between any two of these: what it left RUNNING is adopted by the next one,
completed if need be, and never asked again. At one candidate at a time a search that was killed and continued asks
the very candidates of one that was not.
"""

import contextlib
import json
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.pruners import NopPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweep.errors import StoreError, SweepError
from sweep.storage.store import Store
from sweep.tuning.driver import Driver
from sweep.tuning.samplers import sampler_of
from sweep.tuning.storage import journal_of, open_storage, shown, silence

if TYPE_CHECKING:
    from sweep.tuning.block import Tune

State = Literal["running", "complete", "pruned", "failed"]
Direction = Literal["maximize", "minimize"]
MIN_FOR_IMPORTANCES = 10
"""Finished candidates below which importances say nothing."""
_STATES: Mapping[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_ENDS = {name: state for state, name in _STATES.items() if state.is_finished()}
_PARAMS, _SO_FAR, _SEARCHES, _STORE = "params", "values_so_far", "searches", "storage"
"""Attributes of ours in the storage."""
_SEARCHED = ("method", "space", "instances")
"""Keys of the `tune:` block that, with the metric, decide whether candidates and scores belong together."""


@dataclass(frozen=True)
class Asked:
    """A candidate to evaluate."""

    number: int
    params: dict[str, Any]
    """Only the parameters that exist under the others."""
    adopted: bool
    """Whether it was left behind by an earlier driver."""


@dataclass(frozen=True)
class Trial:
    """A candidate as the storage has it."""

    number: int
    params: dict[str, Any]
    """Empty if the driver was killed while they were drawn."""
    state: State
    values: tuple[float, ...] | None
    """One per objective; of a pruned one those it had when it was stopped."""
    attrs: dict[str, Any]
    started: float | None
    """Seconds since the epoch."""
    ended: float | None


class Study:
    """Asks and tells; `open` makes one, `close` frees it for the next process."""

    def __init__(self, study: optuna.Study, tune: "Tune", *, driver: Driver | None = None, location: str = "") -> None:
        """Of an Optuna study that is there already, for example in memory; else see `open`."""
        silence()
        self._study = study
        self._tune = tune
        self._driver = driver
        self._live: dict[int, optuna.Trial] = {}
        self._left = [t.number for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
        self.location = location
        """What optuna-dashboard is to be given."""
        self.importances_note = ""
        """Why the last `importances` were empty."""
        study.sampler = sampler_of(tune.sampler, tune.seed, n_objectives=len(study.directions))
        study.pruner = NopPruner()

    @classmethod
    def open(
        cls,
        store: Store,
        name: str,
        tune: "Tune",
        *,
        directions: Sequence[Direction],
        basis: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ) -> "Study":
        """Open the study of this name, or make it.

        Args:
            name: Of the study; its journal is <store>/tuning/<name>/journal.log unless `tune.study_storage` names a
                database.
            directions: "maximize" or "minimize", one for each objective.
            basis: What else the scores depend on (JSON), such as the instances resolved; a study refuses another one.
            read_only: To look at a study that may be under way; neither makes nor takes it. Ask and tell are not for
                this.

        Raises:
            SweepError: Another process drives it; the database cannot be used; it searches something else; not there
                (read_only).
            SpecError: The sampler or the storage cannot be used.
            StoreError: The journal is damaged or not writable.
        """
        silence()
        # what it misses is said before anything is made
        sampler_of(tune.sampler, tune.seed, n_objectives=len(directions))
        driver = None
        if not read_only and (store.is_local or tune.study_storage):
            driver = Driver.take(store, store.path("tuning", name, "driver.json"), name)
        try:
            storage = open_storage(store, name, tune.study_storage, read_only=read_only)
            url = tune.study_storage
            with _plainly(url or str(journal_of(store, name))):
                study = _loaded(storage, name, directions, read_only=read_only)
                if not read_only:
                    _check_same_search(study, tune, basis)
                    _check_same_store(study, store)
                return cls(study, tune, driver=driver, location=shown(url) if url else str(journal_of(store, name)))
        except BaseException:
            if driver:
                driver.release()
            raise

    def beat(self) -> None:
        """A sign of life of this driver, due every 20 s or so.

        Raises:
            SweepError: Another driver has taken over; nothing more may be told.
        """
        if self._driver:
            self._driver.beat()

    def close(self) -> None:
        """Let the next process have the study."""
        if self._driver:
            self._driver.release()

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def enqueue(self, params: Mapping[str, Any]) -> bool:
        """Have this candidate asked first. Returns whether it will be: only in a new study, and if the space contains
        it."""
        with _plainly(self.location):
            if self._all() or not self._tune.space.contains(dict(params)):
                return False
            self._enqueue(dict(params))
            return True

    def adopt(self) -> list[Asked]:
        """The candidates that an earlier driver left under way, with their parameters completed."""
        with _plainly(self.location):
            running = {t.number: t for t in self._all() if t.state is TrialState.RUNNING}
            return [self._completed(running[number], adopted=True) for number in self._left if number in running]

    def ask(self) -> Asked | None:
        """A new candidate, or None if a finite space has no more.

        A sampler other than grid may name a candidate twice: its runs are the same, so it costs nothing but a trial.
        """
        with _plainly(self.location):
            trials = self._all()
            if not any(trial.state is TrialState.WAITING for trial in trials):
                taken = {_key(t.user_attrs[_PARAMS]) for t in trials if _PARAMS in t.user_attrs}
                if self._tune.sampler == "grid":
                    free = next((params for params in self._grid if _key(params) not in taken), None)
                    if free is None:
                        return None
                    self._enqueue(free)
                elif self._tune.space.size is not None and len(taken) >= self._tune.space.size:
                    return None
            number = self._study.ask().number
            return self._completed(next(t for t in self._all() if t.number == number), adopted=False)

    @property
    def is_exhausted(self) -> bool:
        """Whether a finite space has no candidate that was not asked."""
        with _plainly(self.location):
            trials = self._all()
            if any(trial.state is TrialState.WAITING for trial in trials) or self._tune.space.size is None:
                return False
            return (
                len({_key(t.user_attrs[_PARAMS]) for t in trials if _PARAMS in t.user_attrs}) >= self._tune.space.size
            )

    def note(self, number: int, **attrs: Any) -> None:
        """Keep something (JSON) with a candidate that is under way."""
        trial = self._under_way(number)
        with _plainly(self.location):
            for key, value in attrs.items():
                trial.set_user_attr(key, value)

    def tell(
        self,
        number: int,
        values: Sequence[float] | None,
        state: Literal["complete", "pruned", "failed"],
        *,
        step: int = 1,
        **attrs: Any,
    ) -> None:
        """End a candidate.

        Args:
            values: One per objective; of a pruned candidate those it has so far, or None; of a failed one they are
                ignored.
            step: How many instances the values of a pruned candidate are of: TPE prefers those that came further.
            attrs: Kept with it (JSON).

        Raises:
            ValueError: A complete candidate without a finite value for each objective.
        """
        trial = self._under_way(number)
        directions = self._study.directions
        if (state == "complete" or (state == "pruned" and values is not None)) and not (
            values is not None and len(values) == len(directions) and all(map(math.isfinite, values))
        ):
            raise ValueError(f"candidate {number}: {len(directions)} finite values are needed, got {values}")
        with _plainly(self.location):
            for key, value in attrs.items():
                trial.set_user_attr(key, value)
            if state == "pruned" and values is not None:
                trial.set_user_attr(_SO_FAR, [float(value) for value in values])
                if len(directions) == 1:  # Optuna keeps none for several
                    trial.report(float(values[0]), step)
            told = [float(value) for value in values] if state == "complete" and values is not None else None
            self._study.tell(trial, told, state=_ENDS[state])
        del self._live[number]

    def trials(self) -> list[Trial]:
        """All candidates so far, by number; an enqueued one only from when it was asked."""
        with _plainly(self.location):
            return [_as_trial(t) for t in self._all() if t.state in _STATES]

    def importances(self, objective: int = 0) -> dict[str, float]:
        """How much each parameter mattered for being among the best, by PED-ANOVA (Watanabe et al. 2023), largest
        first.

        Of complete candidates; the best are a tenth of them, and five at least. Names are those in Optuna's storage;
        shares of 1.

        Returns:
            {} if it cannot be told; then `importances_note` says why.
        """
        complete = [t for t in self._all() if t.state is TrialState.COMPLETE]
        self.importances_note = _why_no_importances(complete, objective)
        if self.importances_note:
            return {}
        sign = -1 if self._study.directions[objective] == StudyDirection.MAXIMIZE else 1
        evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / len(complete)))
        with warnings.catch_warnings():  # of few candidates with a conditional parameter, for example
            warnings.simplefilter("ignore")
            found = get_param_importances(
                self._study, evaluator=evaluator, target=lambda t: sign * t.values[objective], normalize=False
            )
        total = sum(found.values())
        if not total > 0:
            self.importances_note = "no parameter differs between the best candidates and the others"
            return {}
        return {name: value / total for name, value in sorted(found.items(), key=lambda item: (-item[1], item[0]))}

    # -- inside ------------------------------------------------------------------------------------------------

    def _all(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    @cached_property
    def _grid(self) -> list[dict[str, Any]]:
        """All candidates in an order of the seed's, so that a part of them is spread over the space."""
        candidates = [dict(params) for params in self._tune.space.grid()]
        random.Random(self._tune.seed).shuffle(candidates)
        return candidates

    def _enqueue(self, params: dict[str, Any]) -> None:
        self._study.enqueue_trial(self._tune.space.fixed(params), user_attrs={_PARAMS: _plain(params)})

    def _completed(self, trial: FrozenTrial, *, adopted: bool) -> Asked:
        """With all parameters drawn: those in the storage stay, the rest are drawn as if nothing had happened."""
        live = self._live[trial.number] = optuna.Trial(self._study, trial._trial_id)
        params = _plain(self._tune.space.suggest(live))
        if live.user_attrs.get(_PARAMS) != params:
            live.set_user_attr(_PARAMS, params)
        return Asked(trial.number, params, adopted)

    def _under_way(self, number: int) -> optuna.Trial:
        if number not in self._live:
            raise ValueError(f"candidate {number} is not under way here; there are {sorted(self._live) or 'none'}")
        return self._live[number]


def _loaded(
    storage: optuna.storages.BaseStorage, name: str, directions: Sequence[Direction], *, read_only: bool
) -> optuna.Study:
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        if read_only:
            raise SweepError(f"there is no study '{name}'; `w2s tune` makes it") from None
        return optuna.create_study(study_name=name, storage=storage, directions=list(directions))
    there = [direction.name.lower() for direction in study.directions]
    if there != list(directions):
        raise SweepError(
            f"study '{name}' has the objectives {', '.join(there)}, the spec asks for {', '.join(directions)}; "
            "give the sweep another name, or move the study away"
        )
    return study


def _check_same_store(study: optuna.Study, store: Store) -> None:
    """A study in a database belongs to one results folder: runs and driver of another one would not be seen."""
    root = study.user_attrs.get(_STORE)
    if root is None:
        study.set_user_attr(_STORE, str(store.root))
    elif root != str(store.root) and study.trials:
        raise SweepError(
            f"study '{study.study_name}' in this database belongs to the results in '{root}', not to '{store.root}'; "
            "use that storage, or another database"
        )


def _check_same_search(study: optuna.Study, tune: "Tune", basis: Mapping[str, Any] | None) -> None:
    """A study whose candidates were scored otherwise, or drawn from another space, is not gone on with."""
    block = tune.model_dump(mode="json", include=set(_SEARCHED))
    now = _plain({**block, "metric": tune.metrics, **(basis or {})})
    before = study.user_attrs.get(_SEARCHES)
    if before is None:
        study.set_user_attr(_SEARCHES, now)
        return
    # a search by `weak` may become one of `both`: it goes by the same metric
    metrics = [before["metric"][judge] == now["metric"][judge] for judge in before["metric"].keys() & now["metric"]]
    different = [key for key in sorted((now.keys() | before.keys()) - {"metric"}) if now.get(key) != before.get(key)]
    different += [] if metrics and all(metrics) else ["metric"]
    if different:
        raise SweepError(
            f"study '{study.study_name}' was begun with another {' and another '.join(different)}: its scores do not "
            "belong with those of this spec; give the sweep another name, or move the study away (what may change: "
            "budget, sampler, pruner, concurrent, fresh)"
        )


def _why_no_importances(complete: Sequence[FrozenTrial], objective: int) -> str:
    if len(complete) < MIN_FOR_IMPORTANCES:
        return f"{len(complete)} complete candidates; {MIN_FOR_IMPORTANCES} are needed"
    if len({trial.values[objective] for trial in complete}) == 1:
        return "all candidates have the same value"
    return ""


def _as_trial(trial: FrozenTrial) -> Trial:
    attrs = {key: value for key, value in trial.user_attrs.items() if key not in (_PARAMS, _SO_FAR)}
    values = trial.values if trial.state is TrialState.COMPLETE else trial.user_attrs.get(_SO_FAR)
    return Trial(
        number=trial.number,
        params=dict(trial.user_attrs.get(_PARAMS, {})),
        state=_STATES[trial.state],
        values=None if values is None else tuple(values),
        attrs=attrs,
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
    )


def _plain(value: Any) -> Any:
    """As it comes back from a storage: tuples are lists."""
    return json.loads(json.dumps(value))


def _key(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


@contextlib.contextmanager
def _plainly(location: str) -> Iterator[None]:
    """What the storage refuses while a search is under way, as an error for people."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    except StorageInternalError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise SweepError(
            f"study storage '{shown(location)}': {reason}; the same command goes on where it stopped"
        ) from None
    except UpdateFinishedTrialError as error:
        raise SweepError(
            f"study storage '{shown(location)}': another process has ended this candidate ({error}); only one w2s tune "
            "at a time may drive a study"
        ) from None
    except OSError as error:
        raise StoreError(f"study storage '{location}': {error.strerror or error}") from None
