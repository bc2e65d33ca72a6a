"""What a search leaves for reports: its candidates as tables, and a summary. Written whole, after every session."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.tuning.reading import IMPORTANCES_SCHEMA, SCORES_SCHEMA, TRIALS_SCHEMA
from sweep.storage.store import Store
from sweep.tuning.block import Judge, Tune
from sweep.tuning.objective import MEANING, Instance
from sweep.tuning.search import SCORES, SECONDS, WORK, best_of, front_of
from sweep.tuning.study import Study, Trial


@dataclass(frozen=True)
class Searched:
    """One objective of a `tune:` block as far as its search got."""

    judge: Judge
    metric: str
    folder: str
    """Below the storage."""
    instances: Sequence[Instance]
    trials: Sequence[Trial]
    default: Mapping[str, Any] | None
    """Parameters of the default candidate, if the space has it."""
    shared_runs: Mapping[str, int]
    candidate_runs: int
    ended: str
    location: str

    @property
    def best(self) -> Trial | None:
        return best_of(self.trials)


def write_tables(store: Store, searched: Searched, study: Study, *, minimize_flops: bool) -> dict[str, Any]:
    """Write the tables of one search; returns its part of the summary."""
    trials = sorted(searched.trials, key=lambda trial: (trial.ended is None, trial.ended or 0.0, trial.number))
    rows = [_row(order, trial) for order, trial in enumerate(trials)]
    _write(store, searched.folder, "trials", pl.DataFrame(rows, schema=TRIALS_SCHEMA, orient="row"))
    scores = [
        (trial.number, i, instance.task, instance.weak, instance.strong, instance.seed, score)
        for trial in searched.trials
        for i, (instance, score) in enumerate(zip(searched.instances, trial.attrs.get(SCORES, []), strict=False))
    ]
    _write(store, searched.folder, "scores", pl.DataFrame(scores, schema=SCORES_SCHEMA, orient="row"))
    found = []
    notes = []
    for index, of in enumerate(("value", "flops") if minimize_flops else ("value",)):
        found += [(of, name, share) for name, share in study.importances(index).items()]
        notes.append(study.importances_note)
    _write(store, searched.folder, "importances", pl.DataFrame(found, schema=IMPORTANCES_SCHEMA, orient="row"))
    best = searched.best
    default = next((t.number for t in searched.trials if t.params == searched.default), None)
    return {
        "objective": searched.judge,
        "metric": searched.metric,
        "meaning": MEANING[searched.metric],
        "folder": searched.folder,
        "minimize_flops": minimize_flops,
        "best": best.number if best else None,
        "front": [trial.number for trial in front_of(searched.trials)] if minimize_flops else [],
        "default": default,
        "spent": {
            "trials": sum(trial.state != "running" for trial in searched.trials),
            "work": sum(trial.attrs.get(WORK, 0.0) for trial in searched.trials),
            "seconds": sum(trial.attrs.get(SECONDS, 0.0) for trial in searched.trials),
        },
        "ended": searched.ended,
        "importances_note": "; ".join(dict.fromkeys(note for note in notes if note)),
        "shared_runs": dict(searched.shared_runs),
        "candidate_runs": searched.candidate_runs,
        "location": searched.location,
    }


def space_rows(tune: Tune) -> list[dict[str, Any]]:
    """The space, a row per parameter, as the block has it."""
    rows = []
    for name in tune.space.names:
        parameter = tune.space.root[name]
        data = parameter.model_dump(mode="json")
        kind = {"Range": "int" if getattr(parameter, "is_whole", False) else "float", "Choice": "choice"}
        row = {"name": name, "kind": kind.get(type(parameter).__name__, "subset"), "when": data.get("when") or {}}
        rows.append(
            row
            | {key: data.get(key) for key in ("low", "high", "log", "step")}
            | {"values": data.get("choices") or data.get("subset")}
        )
    return rows


def read_summary(store: Store, folder: str) -> dict[str, Any]:
    """What the last session wrote; empty if there was none, or it cannot be read."""
    try:
        return json.loads(store.fs.cat_file(store.path(folder, "summary.json")))
    except (OSError, ValueError):
        return {}


def write_summary(store: Store, folder: str, summary: Mapping[str, Any]) -> None:
    """Replace `summary.json`, which says that the tables beside it are there."""
    store.write_object(store.path(folder, "summary.json"), json.dumps(summary, indent=1).encode())


def _row(order: int, trial: Trial) -> tuple[Any, ...]:
    complete = trial.state == "complete" and trial.values
    value = float(trial.values[0]) if trial.values else None
    return (
        trial.number,
        trial.state,
        value if complete else None,
        value,
        trial.attrs.get("flops"),
        trial.attrs.get(WORK, 0.0),
        order,
        len(trial.attrs.get(SCORES, [])),
        trial.attrs.get("reason", ""),
        json.dumps(trial.params),
        trial.started,
        trial.ended,
    )


def _write(store: Store, folder: str, name: str, frame: pl.DataFrame) -> None:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    store.write_object(store.path(folder, f"{name}.parquet"), buffer.getvalue())
