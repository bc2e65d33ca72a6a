"""The files of a search, `<storage>/tuning/<tune_id>/`: `summary.json`, and three tables in each study's folder."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from analysis.errors import AnalysisError
from analysis.reading import Store, first_line, open_store

FOLDER = "tuning"
STATES = ("complete", "pruned", "failed", "running")
ORACLE = "oracle"
TRIALS_SCHEMA: dict[str, Any] = {
    "number": pl.Int64,
    "state": pl.String,
    "value": pl.Float64,
    "value_so_far": pl.Float64,
    "flops": pl.Float64,
    "new_work": pl.Float64,
    "order": pl.Int64,
    "n_instances": pl.Int64,
    "reason": pl.String,
    "params": pl.String,
    "started": pl.Float64,
    "ended": pl.Float64,
}
SCORES_SCHEMA: dict[str, Any] = {
    "number": pl.Int64,
    "instance": pl.Int64,
    "task": pl.String,
    "weak": pl.String,
    "strong": pl.String,
    "seed": pl.Int64,
    "score": pl.Float64,
}
IMPORTANCES_SCHEMA: dict[str, Any] = {"of": pl.String, "parameter": pl.String, "importance": pl.Float64}
TABLES = {"trials": TRIALS_SCHEMA, "scores": SCORES_SCHEMA, "importances": IMPORTANCES_SCHEMA}
_REMEDY = "w2s tune writes it anew when the search goes on or is reported again"


@dataclass(frozen=True)
class Parameter:
    """One parameter of the space, as it is drawn and listed."""

    name: str
    kind: str
    """`float`, `int`, `choice` or `subset`."""
    low: float | None = None
    high: float | None = None
    log: bool = False
    values: tuple[Any, ...] = ()
    """Of a choice; of a subset the names that it is made of."""
    when: Mapping[str, Any] = field(default_factory=dict)

    @property
    def numeric(self) -> bool:
        return self.kind in ("float", "int")


@dataclass(frozen=True)
class StudyFiles:
    """One study: a search by one objective."""

    objective: str
    """`weak` or `oracle`."""
    metric: str
    meaning: str
    minimize_flops: bool
    best: int | None
    """Number of the winner; None where no candidate is complete."""
    front: tuple[int, ...]
    """Numbers on the Pareto front."""
    default: int | None
    """Number of the candidate whose runs are those of the default configuration, where there is one."""
    spent: Mapping[str, Any]
    ended: str
    importances_note: str
    shared_runs: Mapping[str, int]
    candidate_runs: int | None
    location: str
    trials: pl.DataFrame = field(repr=False)
    """`TRIALS_SCHEMA`, by number."""
    scores: pl.DataFrame = field(repr=False)
    importances: pl.DataFrame = field(repr=False)
    gap: Mapping[str, Any] = field(default_factory=dict)
    """Mean accuracies `weak` and `ceiling` of the search on validation, and its `n_examples`; empty where not known."""

    @property
    def oracle(self) -> bool:
        return self.objective == ORACLE

    def of_state(self, *states: str) -> pl.DataFrame:
        return self.trials.filter(pl.col("state").is_in(states))

    def candidate(self, number: int | None) -> dict[str, Any] | None:
        """The row of a candidate."""
        rows = self.trials.filter(pl.col("number") == number) if number is not None else self.trials.clear()
        return rows.row(0, named=True) if rows.height else None


@dataclass(frozen=True)
class TuningFiles:
    """A whole search as its files tell it."""

    storage: str
    tune_id: str
    summary: Mapping[str, Any]
    parameters: tuple[Parameter, ...]
    studies: tuple[StudyFiles, ...]
    problems: tuple[str, ...]
    """What could not be read."""


def read_tuning(storage: str, tune_id: str | None = None) -> TuningFiles:
    """Read a search.

    Args:
        storage: Folder or fsspec URL of the results.
        tune_id: Which one; None takes the only one there is.

    Raises:
        AnalysisError: No such storage or search, several to choose from, or an unreadable summary.
    """
    store = open_store(str(storage))
    known = [name for name in store.names(FOLDER) if "summary.json" in store.names(f"{FOLDER}/{name}")]
    listed = ", ".join(known) or "none"
    if tune_id is None:
        if len(known) != 1:
            raise AnalysisError(f"name one search of {storage}; there are: {listed}")
        tune_id = known[0]
    if tune_id not in known:
        raise AnalysisError(f"{storage} has no search {tune_id!r} with a summary; its searches: {listed}")
    path = f"{FOLDER}/{tune_id}/summary.json"
    try:
        summary = json.loads(store.read(path))
        problems: list[str] = []
        studies = tuple(_study(store, entry, problems) for entry in summary["studies"])
        parameters = tuple(_parameter(entry) for entry in summary["space"])
        return TuningFiles(str(storage), tune_id, summary, parameters, studies, tuple(problems))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise AnalysisError(f"{path} cannot be read as the summary of a search ({what}); {_REMEDY}") from None


def _parameter(entry: Mapping[str, Any]) -> Parameter:
    values = entry.get("values")
    return Parameter(
        name=entry["name"],
        kind=entry["kind"],
        low=entry.get("low"),
        high=entry.get("high"),
        log=bool(entry.get("log")),
        values=tuple(values or ()),
        when=entry.get("when") or {},
    )


def _study(store: Store, entry: Mapping[str, Any], problems: list[str]) -> StudyFiles:
    frames = {name: _frame(store, f"{entry['folder']}/{name}.parquet", name, problems) for name in TABLES}
    return StudyFiles(
        objective=entry["objective"],
        metric=entry["metric"],
        meaning=entry.get("meaning") or "",
        minimize_flops=bool(entry.get("minimize_flops")),
        best=entry.get("best"),
        front=tuple(entry.get("front") or ()),
        default=entry.get("default"),
        spent=entry.get("spent") or {},
        ended=entry.get("ended") or "",
        importances_note=entry.get("importances_note") or "",
        shared_runs=entry.get("shared_runs") or {},
        candidate_runs=entry.get("candidate_runs"),
        location=entry.get("location") or "",
        trials=frames["trials"].sort("number"),
        scores=frames["scores"].sort("number", "instance"),
        importances=frames["importances"],
        gap=entry.get("gap") or {},
    )


def _frame(store: Store, path: str, name: str, problems: list[str]) -> pl.DataFrame:
    """A table under its schema; an empty one where it cannot be read."""
    schema = TABLES[name]
    try:
        frame = pl.read_parquet(io.BytesIO(store.read(path)))
        absent = [pl.lit(None, kind).alias(column) for column, kind in schema.items() if column not in frame.columns]
        frame = frame.with_columns(absent).select(pl.col(column).cast(kind) for column, kind in schema.items())
        return frame.with_columns(
            pl.col(column).fill_nan(None) for column, kind in schema.items() if kind == pl.Float64
        )
    except FileNotFoundError:
        problems.append(f"{path} is missing; {_REMEDY}")
    except (pl.exceptions.PolarsError, OSError) as error:
        problems.append(f"{path} cannot be read ({first_line(error)}); {_REMEDY}")
    return pl.DataFrame(schema=schema)


def params_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a candidate; none where its driver was killed while they were drawn."""
    return json.loads(row["params"] or "{}")


def shown(value: Any) -> str:
    """A value as people write it: numbers in four digits, a subset as its names."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    return str(value)


def settings_in_words(params: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """`method.max_weight = 0.5, method.chain = d8, d16`; in the order of `names`, others after them."""
    ordered = [name for name in names if name in params] + [name for name in params if name not in names]
    texts = (f"[{', '.join(map(shown, v))}]" if isinstance(v, list) else shown(v) for v in map(params.get, ordered))
    return ", ".join(f"{name} = {text}" for name, text in zip(ordered, texts, strict=True))
