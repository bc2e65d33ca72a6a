"""The `tune:` block of a sweep file, and every check of it that needs nothing but the block.

What needs the rest of the spec, or the method's own opinion, is in `sweep.tuning.checks`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from sweep.errors import ErrorAt, nearest
from sweep.tuning.fields import whole_only
from sweep.tuning.space import Choice, Space, Subset, no_grid
from w2s.config import Config, MethodSpec, PositiveFloat, PositiveInt
from w2s.errors import W2SError
from w2s.methods import build_method

Judge = Literal["weak", "oracle"]
WEAK_METRICS = ("agreement", "weak_log_loss", "confidence", "cross_agreement")
ORACLE_METRICS = ("pgr", "accuracy", "log_loss")
_METRICS: dict[Judge, tuple[str, ...]] = {"weak": WEAK_METRICS, "oracle": ORACLE_METRICS}
"""What each objective may be measured by, all on validation; the first is the default."""


def _seed(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"a whole number is needed, got {str(value).lower()}")
    return value


Seed = Annotated[int, BeforeValidator(_seed), Field(ge=0)]


def _each_once(what: str, values: tuple[Any, ...] | None, key: str) -> None:
    for index, value in enumerate(values or ()):
        if value in (values or ())[:index]:
            raise ErrorAt(f"{what} {_as_written(value)} is given twice; each is listed once", key, index)


def _as_written(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else f"'{value}'"


class Instances(Config):
    """What a candidate is judged on: every one of the pairs, with every task and seed. Left out: all of the spec's."""

    pairs: Literal["all", "adjacent"] | tuple[tuple[str, str], ...] | None = Field(default=None, min_length=1)
    tasks: tuple[str, ...] | None = Field(default=None, min_length=1)
    seeds: tuple[Seed, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _listed_once(self) -> "Instances":
        if isinstance(self.pairs, tuple):
            _each_once("pair", self.pairs, "pairs")
        _each_once("task", self.tasks, "tasks")
        _each_once("seed", self.seeds, "seeds")
        return self


class Fresh(Instances):
    """What the tuned configuration is compared to the default one on, once, on test. Left out: the search's."""

    seeds: tuple[Seed, ...] = Field(min_length=1)  # pyright: ignore[reportIncompatibleVariableOverride]
    """Seeds that the search does not use."""


class Budget(Config):
    """When the search ends; the first that is reached counts."""

    trials: PositiveInt | None = None
    """Candidates, stopped ones included."""
    flops: PositiveFloat | None = None
    """Estimated, of the candidates' own runs; not of what all of them share."""
    hours: PositiveFloat | None = None
    """Of wall clock, in all sessions together."""

    @model_validator(mode="after")
    def _says_something(self) -> "Budget":
        if self.trials is None and self.flops is None and self.hours is None:
            raise ValueError("says nothing, so the search would never end; give trials, flops or hours")
        return self


_OF_PRUNER = {"wilcoxon": ("p", "startup"), "halving": ("factor", "first"), "none": ()}


class PrunerSpec(Config):
    """When a candidate is stopped before it has met all instances; a name, or a mapping with it."""

    name: Literal["wilcoxon", "halving", "none"] = "wilcoxon"
    p: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """`wilcoxon`: stops what is worse than the best candidate with a p-value below this."""
    startup: Annotated[int, Field(ge=2)] = 2
    """`wilcoxon`: instances that every candidate gets."""
    factor: Annotated[int, Field(ge=2)] = 3
    """`halving`: the best 1/factor go on."""
    first: PositiveInt = 2
    """`halving`: instances before the first decision."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: Any) -> Any:
        if data is None or isinstance(data, str):  # YAML reads `pruner: null` and `~` as None
            return {"name": data or "none"}
        if isinstance(data, Mapping) and "name" not in data:
            raise ValueError(f"needs a name: {', '.join(_OF_PRUNER)}")
        return data

    @model_validator(mode="after")
    def _own_settings(self) -> "PrunerSpec":
        for key in sorted(self.model_fields_set - {"name", *_OF_PRUNER[self.name]}):
            whose = next(name for name, keys in _OF_PRUNER.items() if key in keys)
            if getattr(self, key) != type(self).model_fields[key].default:  # a dump has the others' defaults
                raise ErrorAt(f"is a setting of pruner {whose}, not of {self.name}", key)
        return self


def _default_pruner(data: dict[str, Any]) -> PrunerSpec:
    return PrunerSpec(name="none" if data.get("minimize_flops") else "wilcoxon")


class Tune(Config):
    """A search over the parameters of one method and over finetuning settings."""

    method: MethodSpec
    """What is not in the space stays as written here. Only what is written: the method's defaults are not filled in."""
    objective: Literal["weak", "oracle", "both"] = "weak"
    """What the search may look at, on validation: `weak`, no ground truth beyond the supervisor's own training data;
    `oracle`, ground truth; `both`: two searches that share all runs."""
    metric: str | Mapping[Judge, str] | None = None
    """By default `agreement` and `pgr`; with `both`, one name replaces that of its objective, a mapping both."""
    minimize_flops: bool = False
    """Whether the finetuning FLOPs of the student are a second objective: the result is a front."""
    space: Space
    instances: Instances = Instances()
    fresh: Fresh
    budget: Budget
    sampler: Literal["tpe", "gp", "cmaes", "random", "grid"] = "tpe"
    pruner: PrunerSpec = Field(default_factory=_default_pruner)
    """By default `wilcoxon`, but `none` with `minimize_flops`."""
    concurrent: PositiveInt = 4
    """Candidates under way at once; with 1 the search is the same each time."""
    seed: Seed = 0
    """Of the sampler."""
    study_storage: Annotated[str, Field(min_length=1)] | None = None
    """URL of a database for the study, such as sqlite:///studies.db; otherwise a journal file in the results folder."""

    @property
    def judges(self) -> tuple[Judge, ...]:
        """The searches: weak, oracle, or both."""
        return ("weak", "oracle") if self.objective == "both" else (self.objective,)

    @property
    def metrics(self) -> dict[Judge, str]:
        """What each search goes by."""
        found: dict[Judge, str] = {judge: _METRICS[judge][0] for judge in self.judges}
        if isinstance(self.metric, Mapping):
            return found | dict(self.metric)
        if self.metric is not None:
            found |= {judge: self.metric for judge in self.judges if self.metric in _METRICS[judge]}
        return found

    @field_validator("method", mode="before")
    @classmethod
    def _method_as_written(cls, value: Any) -> Any:
        if isinstance(value, MethodSpec):
            value = {"name": value.name, **value.params}
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError(f"a method is a name or a mapping with a name, got {value!r}")
        if value.keys() == {"name", "params"} and isinstance(value["params"], Mapping):  # from a dump
            value = {"name": value["name"], **value["params"]}
        if "finetune" in value:
            raise ErrorAt(
                "finetuning settings of candidates belong in the space, such as finetune.epochs: [3]; "
                "those of all models in the sweep's finetune",
                "finetune",
            )
        spec = MethodSpec(name=value["name"], params={key: item for key, item in value.items() if key != "name"})
        try:
            build_method(spec)
        except W2SError as error:
            raise ValueError(str(error)) from None
        return spec

    @field_validator("metric")
    @classmethod
    def _metric_of_the_objective(cls, metric: Any, info: ValidationInfo) -> Any:
        objective = info.data.get("objective")
        if metric is None or objective is None:
            return metric
        judges: tuple[Judge, ...] = ("weak", "oracle") if objective == "both" else (objective,)
        for judge, name in metric.items() if isinstance(metric, Mapping) else [(None, metric)]:
            allowed = [m for j in judges if judge in (None, j) for m in _METRICS[j]]
            if name in allowed:
                continue
            at = () if judge is None else (judge,)
            owner = next((j for j in _METRICS if name in _METRICS[j]), None)
            if judge is not None and judge not in judges:
                raise ErrorAt(f"objective is {objective}, so nothing is measured for {judge}", *at)
            if owner is not None:
                looks = "looks at ground truth" if owner == "oracle" else "looks at weak labels only"
                raise ErrorAt(
                    f"'{name}' {looks}, but the objective is {judge or objective}; there is {', '.join(allowed)}", *at
                )
            raise ErrorAt(f"unknown metric '{name}'{nearest(name, allowed)}", *at)
        return metric

    @field_validator("space")
    @classmethod
    def _whole_numbers_where_no_others_fit(cls, space: Space, info: ValidationInfo) -> Space:
        method = info.data.get("method")
        if method is None:
            return space
        return space.whole_where({key: whole_only(key, method, space) for key in space.root})

    @model_validator(mode="after")
    def _parts_agree(self) -> "Tune":
        for index, seed in enumerate(self.fresh.seeds):
            if seed in (self.instances.seeds or ()):
                raise ErrorAt(
                    f"seed {seed} is searched on, too; fresh seeds are others than those of instances",
                    "fresh",
                    "seeds",
                    index,
                )
        if self.sampler == "grid" and self.space.endless:
            raise ErrorAt(no_grid(self.space.endless), "space", self.space.endless[0])
        if self.minimize_flops and self.pruner.name != "none":
            raise ErrorAt(
                "with minimize_flops what is worse may be cheaper; write pruner: none, or leave it out", "pruner"
            )
        self._sampler_fits_the_space()
        return self

    def _sampler_fits_the_space(self) -> None:
        """What Optuna's samplers cannot model they would draw at random, without a word."""
        if self.sampler not in ("gp", "cmaes"):
            return
        if self.sampler == "cmaes" and self.minimize_flops:
            raise ErrorAt("cmaes knows only one objective; use tpe, gp or random with minimize_flops", "sampler")
        for key, parameter in self.space.root.items():
            if parameter.when:
                raise ErrorAt(
                    f"{self.sampler} cannot model '{key}', which exists only under a condition; use tpe", "sampler"
                )
            if self.sampler == "cmaes" and isinstance(parameter, Choice | Subset):
                kind = "a choice" if isinstance(parameter, Choice) else "a subset"
                raise ErrorAt(f"cmaes moves through numbers only, and '{key}' is {kind}; use tpe or gp", "sampler")
        varying = [key for key in self.space.names if self.space.root[key].count != 1]
        if self.sampler == "cmaes" and len(varying) < 2:
            raise ErrorAt("cmaes needs two numbers to vary, or more; use tpe or gp", "sampler")
