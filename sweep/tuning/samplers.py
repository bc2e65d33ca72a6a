"""Optuna's samplers, made to answer the same after a restart.

A sampler of Optuna draws from a stream of random numbers: what it says to candidate 7 depends on how often it was
asked before, so a search that was killed would go on otherwise than one that was not. Here every answer comes from a
fresh sampler, seeded by (seed of the search, number of the candidate) and, for parameters drawn one by one, their
name. What it says depends on nothing else but the trials in the storage.
"""

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from sweep.errors import SpecError

_NEEDS = {"cmaes": "cmaes", "gp": "torch"}
"""Packages of Optuna's that are no part of its installation."""


def sampler_of(name: str, seed: int, *, n_objectives: int = 1) -> BaseSampler:
    """The sampler of a search.

    Args:
        name: tpe, gp, cmaes or random; grid draws nothing, its candidates are enqueued.

    Raises:
        SpecError: Its package is not installed, or it knows only one objective.
    """
    package = _NEEDS.get(name)
    if package and importlib.util.find_spec(package) is None:
        raise SpecError(f"tune.sampler: {name} needs the package {package}: pip install {package}", ("tune", "sampler"))
    if name == "cmaes" and n_objectives > 1:
        raise SpecError(
            "tune.sampler: cmaes knows only one objective; take tpe, gp or random with minimize_flops",
            ("tune", "sampler"),
        )
    makers: dict[str, Callable[[int], BaseSampler]] = {
        # groups: parameters that exist only under another's value are modelled jointly with those they occur with
        "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
        "gp": lambda seed: GPSampler(seed=seed, warn_independent_sampling=False),
        "cmaes": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
        "random": lambda seed: RandomSampler(seed=seed),
        "grid": lambda seed: RandomSampler(seed=seed),
    }
    return Fresh(partial(_quietly, makers[name]), seed)


class Fresh(BaseSampler):
    """A new sampler for every answer; see the module."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._inner = make(seed)

    def _fresh(self, *of: int | str) -> BaseSampler:
        digest = sha256("/".join(map(str, (self._seed, *of))).encode()).digest()
        return self._make(int.from_bytes(digest[:4]))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._inner = self._fresh(trial.number)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._inner = self._fresh(trial.number)
        space = self._inner.infer_relative_search_space(study, trial)
        return dict(sorted(space.items()))  # Optuna gathers it from sets

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Mapping[str, Any]:
        # by the one that was asked for the space just before
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        # by name, so that a candidate cut off between two parameters gets the rest as if it had not been
        return self._fresh(trial.number, param_name).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._fresh(trial.number).after_trial(study, trial, state, values)


def _quietly(make: Callable[[int], BaseSampler], seed: int) -> BaseSampler:
    with warnings.catch_warnings():  # experimental arguments
        warnings.simplefilter("ignore")
        return make(seed)
