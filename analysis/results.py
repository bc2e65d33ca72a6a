"""The results of sweeps as two tables, read from the store (`docs/architecture.md`, "The store").

`load` reads only what a `DONE` file names and whose SHA-256 fits. What cannot be read is left out and named in
`Results.problems`; pairs that are not complete are kept apart in `Results.missing`. Everything scores the split
`test` at the final step.

A run's id does not cover names, so `run.json` says what the first sweep called its task and rung. Another sweep may
call them otherwise: everywhere here runs bear the names of the manifest; those in no manifest keep their own.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import fsspec
import numpy as np
import polars as pl

from analysis import metrics
from analysis.errors import AnalysisError

READERS = 8
FINETUNED = ("ground_truth", "transfer")
ROLES = ("supervisor", "student", "ceiling")
SIDES = {"supervisor": "weak", "student": "strong", "ceiling": "strong"}
"""The column of the manifest that names the rung of each role's run."""
REMEDY = "Remedy: run the sweep again; what is missing or damaged is made anew"

MANIFEST_SCHEMA: dict[str, Any] = {
    "task": pl.String,
    "form": pl.String,
    "seed": pl.Int64,
    "weak": pl.String,
    "strong": pl.String,
    "method": pl.String,
    "settings": pl.String,
    "part": pl.String,
    "supervisor_id": pl.String,
    "student_id": pl.String,
    "ceiling_id": pl.String,
}
RUNS_SCHEMA: dict[str, Any] = {
    "run_id": pl.String,
    "kind": pl.String,
    "task": pl.String,
    "form": pl.String,
    "seed": pl.Int64,
    "model": pl.String,
    "train_part": pl.String,
    "method": pl.String,
    "method_label": pl.String,
    "settings": pl.String,
    "n_params": pl.Int64,
    "n_matmul": pl.Int64,
    "pretrain_flops": pl.Float64,
    "finetune_flops": pl.Float64,
    "inference_flops": pl.Float64,
    "train_tokens": pl.Int64,
    "predict_tokens": pl.Int64,
    "steps": pl.Int64,
    "n_test": pl.Int64,
    "accuracy": pl.Float64,
    "auroc": pl.Float64,
    "log_loss": pl.Float64,
    "calibration_error": pl.Float64,
    "seconds": pl.Float64,
    "peak_memory_bytes": pl.Int64,
    "device": pl.String,
    "precision": pl.String,
    "micro_batch_size": pl.Int64,
    "micro_batch_shrunk": pl.Boolean,
    "truncated": pl.Int64,
    "host": pl.String,
    "base_id": pl.String,
    "supervisor_id": pl.String,
    "tokenizer_id": pl.String,
}
PAIRS_SCHEMA: dict[str, Any] = MANIFEST_SCHEMA | {
    "size_gap": pl.Int64,
    "log10_compute_ratio": pl.Float64,
    "weak_pretrain_flops": pl.Float64,
    "strong_pretrain_flops": pl.Float64,
    "n_test": pl.Int64,
    "weak_acc": pl.Float64,
    "student_acc": pl.Float64,
    "ceiling_acc": pl.Float64,
    "gap": pl.Float64,
    "pgr": pl.Float64,
    "agreement": pl.Float64,
    "agreement_when_weak_right": pl.Float64,
    "agreement_when_weak_wrong": pl.Float64,
}
PAIR_ORDER = ("task", "settings", "part", "method", "weak", "strong", "seed", "student_id", "ceiling_id")
_WORDS = {"task": "task", "model": "rung"}
_PREDICTIONS_SCHEMA: dict[str, Any] = {
    "example_id": pl.String,
    "split": pl.String,
    "step": pl.Int64,
    "gold": pl.Int8,
    "prediction": pl.Int8,
    "correct": pl.Boolean,
    "p": pl.Float32,
}

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class SharedTest:
    """Final test predictions of all runs of one task, on the examples that all of them have, in one order."""

    task: str
    example_ids: pl.Series
    """Sorted, shape (example,)."""
    gold: np.ndarray
    """Labels, shape (example,)."""
    prediction: np.ndarray
    """Hard predictions, shape (example, run)."""
    column: Mapping[str, int]
    """Position of each run id in `prediction`."""

    @property
    def n_examples(self) -> int:
        return self.gold.size

    def predictions(self, run_ids: Iterable[str]) -> np.ndarray:
        """Hard predictions of some runs, shape (example, run)."""
        return self.prediction[:, [self.column[run_id] for run_id in run_ids]]

    def correct(self, run_ids: Iterable[str]) -> np.ndarray:
        """Whether each prediction is right, bool, shape (example, run)."""
        return self.predictions(run_ids) == self.gold[:, None]


@dataclass(frozen=True)
class Results:
    """Everything the rest of the analysis works from."""

    storage: str
    sweep: str | None
    runs: pl.DataFrame
    """One row per finished, readable run (`RUNS_SCHEMA`). `settings` is the settings' digest."""
    pairs: pl.DataFrame
    """One row per complete pair (`PAIRS_SCHEMA`): scores on the test examples that the task's runs share."""
    missing: pl.DataFrame
    """Pairs that are not complete: the manifest's columns, and the state of each of the three runs."""
    tests: Mapping[str, SharedTest]
    """By task."""
    ladder: pl.DataFrame
    """One row per (task, model) of the manifest, smallest first: `rung` 0, 1, ..., sizes and compute."""
    versions: Mapping[str, str]
    """Package versions that made the runs; several, separated by commas, where runs differ."""
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    """What a reader should know, though nothing went wrong."""
    _store: "_Store" = field(repr=False)

    def predictions(self, run_id: str) -> pl.DataFrame:
        """Predictions of one run at its final step, on all splits, sorted by (`split`, `example_id`).

        Raises:
            AnalysisError: The run is not finished, has no predictions, or its files are damaged.
        """
        try:
            record = _read_run(self._store, run_id, with_predictions=False)
            if record is None:
                raise _Unreadable(f"runs/{run_id} is not finished")
            frame = _read_predictions(self._store, record)
        except _Unreadable as error:
            raise AnalysisError(f"{error}. {REMEDY}") from None
        return frame.sort("split", "example_id")


@dataclass(frozen=True)
class _Store:
    fs: Any
    root: str

    def read(self, path: str) -> bytes:
        return self.fs.cat_file(f"{self.root}/{path}")

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when there is no such folder."""
        try:
            entries = self.fs.ls(f"{self.root}/{folder}", detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)


@dataclass(frozen=True)
class _Record:
    """One finished run as its files tell it."""

    run_id: str
    attempt: str
    files: Mapping[str, Mapping[str, Any]]
    description: Mapping[str, Any]
    measures: Mapping[str, Any]
    test: pl.DataFrame | None = None
    """Test rows of the final step, sorted by example_id; None for runs that predict nothing."""
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Called:
    """What a sweep calls a run."""

    sweep: str
    names: Mapping[str, str]
    """`task`, `form` and `model`, as in run.json; a pretrained model has only the last."""


class _Unreadable(Exception):
    """A run or file is damaged; the text names it."""


def load(storage: str, sweep: str | None = None) -> Results:
    """Read the results of one sweep, or of everything in a storage.

    Args:
        storage: Folder or fsspec URL that holds `runs/` and `sweeps/`.
        sweep: Id of a sweep in `sweeps/`; None unites all of them, equal pairs counted once, and adds every finished
            run of the storage to the table of runs.

    Raises:
        AnalysisError: There is no such storage or sweep, or sweeps that are united call one run by different names.
    """
    storage = str(storage)
    fs, root = fsspec.core.url_to_fs(storage)
    fs.invalidate_cache()
    if not fs.exists(root):
        raise AnalysisError(
            f"there is no storage at {storage!r}; give the folder or URL that `storage` names in the spec"
        )
    store = _Store(fs, root.rstrip("/"))
    problems: list[str] = []
    manifests = _manifests(store, sweep, storage, problems)
    manifest = pl.concat([pl.DataFrame(schema=MANIFEST_SCHEMA), *manifests.values()]).unique().sort(PAIR_ORDER)
    names = _names(manifests)

    named = {run_id for role in ROLES for run_id in manifest[f"{role}_id"].unique()}
    records, unfinished, damaged = _read_runs(store, named if sweep else named | set(store.names("runs")), problems)
    records = _renamed(records, names)
    tests, left_out, notes = _shared_tests(records)
    for run_id, text in left_out.items():
        problems.append(text)
        damaged.add(run_id)
        del records[run_id]

    runs = _runs_frame(records)
    ladder = _ladder(manifest, runs)
    complete = pl.all_horizontal(pl.col(f"{role}_id").is_in(list(records)) for role in ROLES)
    missing = _missing(store, manifest.filter(~complete), set(records), damaged)
    pairs = _pairs_frame(manifest.filter(complete), tests, ladder)
    if not records:
        notes.append(f"{storage} holds no finished runs yet" + (f" of sweep {sweep}" if sweep else ""))
    elif manifest.is_empty():
        notes.append("no sweep with weak-to-strong pairs was found, so there is nothing to compare")
    if unfinished:
        notes.append(f"{unfinished} runs of the plan are not finished")
    return Results(
        storage=storage,
        sweep=sweep,
        runs=runs,
        pairs=pairs,
        missing=missing,
        tests=tests,
        ladder=ladder,
        versions=_versions(records.values()),
        problems=tuple(sorted(problems)),
        notes=tuple(notes),
        _store=store,
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def _manifests(store: _Store, sweep: str | None, storage: str, problems: list[str]) -> dict[str, pl.DataFrame]:
    """The pairs of one sweep or of all, by sweep."""
    known = store.names("sweeps")
    if sweep is not None and sweep not in known:
        listed = ", ".join(known) or "none"
        raise AnalysisError(f"{storage} has no sweep {sweep!r}; its sweeps: {listed}")
    frames: dict[str, pl.DataFrame] = {}
    for name in [sweep] if sweep is not None else known:
        path = f"sweeps/{name}/manifest.parquet"
        try:
            frame = pl.read_parquet(io.BytesIO(store.read(path)))
            frames[name] = frame.select(pl.col(column).cast(kind) for column, kind in MANIFEST_SCHEMA.items())
        except FileNotFoundError:
            problems.append(f"{path} is missing, so the pairs of this sweep are unknown. {REMEDY}")
        except (pl.exceptions.PolarsError, OSError) as error:
            problems.append(f"{path} cannot be read as a manifest ({_first_line(error)}). {REMEDY}")
    return frames


def _read_runs(store: _Store, run_ids: set[str], problems: list[str]) -> tuple[dict[str, _Record], int, set[str]]:
    """All runs asked for and the models they start from: (records by id, how many are not finished, damaged ids)."""
    records: dict[str, _Record] = {}
    seen: set[str] = set()
    damaged: set[str] = set()
    unfinished = 0
    wanted = sorted(run_ids)
    while wanted:
        seen.update(wanted)
        for run_id, outcome in zip(wanted, _parallel(lambda i: _try_read(store, i), wanted), strict=True):
            if isinstance(outcome, _Unreadable):
                problems.append(f"{outcome}; the run is left out. {REMEDY}")
                damaged.add(run_id)
            elif outcome is None:
                unfinished += 1
            else:
                records[run_id] = outcome
        parents = {r.description["parents"].get(key) for r in records.values() for key in ("base", "tokenizer")}
        wanted = sorted(p for p in parents if p and p not in seen)
    return dict(sorted(records.items())), unfinished, damaged


def _parallel(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    with ThreadPoolExecutor(max_workers=READERS) as pool:
        return list(pool.map(function, items))


def _try_read(store: _Store, run_id: str) -> "_Record | _Unreadable | None":
    try:
        return _read_run(store, run_id, with_predictions=True)
    except _Unreadable as error:
        return error


def _read_run(store: _Store, run_id: str, *, with_predictions: bool) -> _Record | None:
    """One run from its files; None when it is not finished."""
    done_path = f"runs/{run_id}/DONE"
    try:
        raw = store.read(done_path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _Unreadable(f"{done_path} cannot be read ({_first_line(error)})") from None
    done = _json(raw, done_path)
    attempt, files = done.get("attempt"), done.get("files")
    if not isinstance(attempt, str) or "/" in attempt or not isinstance(files, dict):
        raise _Unreadable(f"{done_path} does not name an attempt and its files")
    record = _Record(run_id, attempt, files, {}, {})
    description = _json(_checked(store, record, "run.json"), _path(record, "run.json"))
    measures = _json(_checked(store, record, "metrics.json"), _path(record, "metrics.json"))
    for key in ("kind", "model", "task", "seed", "train_part", "method", "parents"):
        if key not in description:
            raise _Unreadable(f"{_path(record, 'run.json')} lacks the key {key!r}")
    if not isinstance(description["parents"], dict):
        raise _Unreadable(f"{_path(record, 'run.json')}: parents is not a mapping")
    record = _Record(run_id, attempt, files, description, measures)
    if not with_predictions or description["kind"] not in FINETUNED:
        return record
    test = _read_predictions(store, record).filter(pl.col("split") == "test").drop("split", "step").sort("example_id")
    _check_test(test, _path(record, "predictions.parquet"))
    return _Record(run_id, attempt, files, description, measures, test.drop("correct", "p"), _scores(test))


def _read_predictions(store: _Store, record: _Record) -> pl.DataFrame:
    """All rows of the final step."""
    path = _path(record, "predictions.parquet")
    raw = _checked(store, record, "predictions.parquet")
    try:
        frame = pl.read_parquet(io.BytesIO(raw), columns=list(_PREDICTIONS_SCHEMA))
        frame = frame.select(pl.col(column).cast(kind) for column, kind in _PREDICTIONS_SCHEMA.items())
    except pl.exceptions.PolarsError as error:
        raise _Unreadable(f"{path} cannot be read as predictions ({_first_line(error)})") from None
    return frame.filter(pl.col("step") == pl.col("step").max())


def _check_test(test: pl.DataFrame, path: str) -> None:
    if test.is_empty():
        raise _Unreadable(f"{path} has no rows of split 'test' at its final step")
    if test["example_id"].null_count() or test["gold"].null_count() or test["prediction"].null_count():
        raise _Unreadable(f"{path} has empty cells in example_id, gold or prediction")
    twice = test.height - test["example_id"].n_unique()
    if twice:
        raise _Unreadable(f"{path} has {twice} test examples twice at its final step")
    wrong = test.filter(pl.col("correct") != (pl.col("gold") == pl.col("prediction"))).height
    if wrong:
        raise _Unreadable(f"{path}: the column correct contradicts gold and prediction in {wrong} test rows")


def _scores(test: pl.DataFrame) -> dict[str, float]:
    gold, prediction = test["gold"].to_numpy(), test["prediction"].to_numpy()
    scores = {"n_test": gold.size, "accuracy": metrics.accuracy(gold, prediction)}
    if test["p"].null_count() == 0:
        p = test["p"].to_numpy()
        scores |= {
            "auroc": metrics.auroc(gold, p),
            "log_loss": metrics.log_loss(gold, p),
            "calibration_error": metrics.calibration_error(gold, p),
        }
    return scores


def _checked(store: _Store, record: _Record, name: str) -> bytes:
    """A file's bytes, when they are the ones that DONE names."""
    path = _path(record, name)
    expected = record.files.get(name)
    if not isinstance(expected, dict) or "sha256" not in expected:
        raise _Unreadable(f"runs/{record.run_id}/DONE does not name {name}")
    try:
        raw = store.read(path)
    except OSError as error:
        raise _Unreadable(f"{path} cannot be read ({_first_line(error)})") from None
    actual = hashlib.sha256(raw).hexdigest()
    if actual != expected["sha256"]:
        raise _Unreadable(f"{path} is damaged: its SHA-256 is {actual[:12]}..., DONE says {expected['sha256'][:12]}...")
    return raw


def _path(record: _Record, name: str) -> str:
    return f"runs/{record.run_id}/attempts/{record.attempt}/{name}"


def _json(raw: bytes, path: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise _Unreadable(f"{path} is not JSON ({_first_line(error)})") from None
    if not isinstance(value, dict):
        raise _Unreadable(f"{path} does not hold a JSON object")
    return value


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- names -----------------------------------------------------------------------------------------------------------


def _names(manifests: Mapping[str, pl.DataFrame]) -> dict[str, _Called]:
    """What the manifests call the runs of their pairs, by run id."""
    called: dict[str, _Called] = {}
    for sweep, frame in manifests.items():
        for role, side in SIDES.items():
            columns = (f"{role}_id", "task", "form", side)
            for run_id, task, form, model in frame.select(columns).unique().sort(columns).iter_rows():
                _call(called, run_id, _Called(sweep, {"task": task, "form": form, "model": model}))
    return called


def _renamed(records: Mapping[str, _Record], called: Mapping[str, _Called]) -> dict[str, _Record]:
    """The records under the manifests' names; models that runs start from are called as the rung of those runs."""
    every = dict(called)
    for run_id, name in called.items():
        base = records[run_id].description["parents"].get("base") if run_id in records else None
        if base:
            _call(every, base, _Called(name.sweep, {"model": name.names["model"]}))
    return {
        run_id: replace(record, description={**record.description, **every[run_id].names})
        if run_id in every
        else record
        for run_id, record in records.items()
    }


def _call(called: dict[str, _Called], run_id: str, name: _Called) -> None:
    known = called.setdefault(run_id, name)
    if known.names == name.names:
        return
    # `form` is part of what a run is, so the task or the rung differs.
    one, other = (", ".join(f"{_WORDS[key]} {n[key]}" for key in n if key in _WORDS) for n in (known.names, name.names))
    remedy = "name one sweep" if known.sweep != name.sweep else "list it once in the spec, and run the sweep again"
    raise AnalysisError(
        f"run {run_id} is {one} in sweep {known.sweep}, but {other} in sweep {name.sweep}: a run cannot be counted"
        f" under two names; {remedy}"
    )


# --- tables ----------------------------------------------------------------------------------------------------------


def _shared_tests(
    records: Mapping[str, _Record],
) -> tuple[dict[str, SharedTest], dict[str, str], list[str]]:
    """Test predictions per task, runs whose gold labels contradict the others', and notes."""
    tests: dict[str, SharedTest] = {}
    left_out: dict[str, str] = {}
    notes: list[str] = []
    tasks = sorted({r.description["task"] for r in records.values() if r.test is not None})
    for task in tasks:
        frames = {i: r.test for i, r in records.items() if r.test is not None and r.description["task"] == task}
        shared = _common_ids([frame["example_id"] for frame in frames.values()])
        largest = max(frame.height for frame in frames.values())
        if len(shared) < largest:
            notes.append(
                f"runs of task {task} were tested on different examples: pairs are scored on the {len(shared):,} that"
                f" all have, of up to {largest:,}"
            )
        gold: np.ndarray | None = None
        column: dict[str, int] = {}
        predictions: list[np.ndarray] = []
        for run_id, frame in frames.items():
            rows = (
                frame
                if frame["example_id"].equals(shared)
                else frame.filter(pl.col("example_id").is_in(shared.implode()))
            )
            labels = rows["gold"].to_numpy()
            if gold is None:
                gold = labels
            elif differing := int(np.sum(labels != gold)):
                path, other = _path(records[run_id], "predictions.parquet"), next(iter(column))
                left_out[run_id] = (
                    f"{path}: gold labels differ from those of run {other} on {differing} test examples; the run"
                    f" is left out. {REMEDY}"
                )
                continue
            column[run_id] = len(predictions)
            predictions.append(rows["prediction"].to_numpy())
        if gold is not None:
            tests[task] = SharedTest(task, shared, gold, np.stack(predictions, axis=1), column)
    return tests, left_out, notes


def _common_ids(ids: Sequence[pl.Series]) -> pl.Series:
    """Example ids that all have; each is sorted and without repeats, and so is the result."""
    shared = ids[0]
    for other in ids[1:]:
        if not other.equals(shared):
            shared = shared.filter(shared.is_in(other.implode()))
    return shared


def _runs_frame(records: Mapping[str, _Record]) -> pl.DataFrame:
    rows = []
    for run_id, record in records.items():
        description, parents = record.description, record.description["parents"]
        base = records.get(parents.get("base") or "")
        row = {key: record.measures.get(key) for key in RUNS_SCHEMA}
        if row["pretrain_flops"] is None and base is not None:
            row["pretrain_flops"] = base.measures.get("pretrain_flops")
        row |= {key: description.get(key) for key in ("kind", "task", "form", "seed", "model", "train_part", "method")}
        row |= {
            "run_id": run_id,
            "method_label": description.get("method_label"),
            "settings": description.get("settings_id"),
        }
        row |= {f"{key}_id": parents.get(key) for key in ("base", "supervisor", "tokenizer")}
        rows.append(row | dict(record.scores))
    frame = pl.DataFrame(rows, schema=RUNS_SCHEMA, strict=False)
    return frame.sort("kind", "task", "settings", "method_label", "model", "seed", "run_id", nulls_last=True)


def _ladder(manifest: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    """Models of each task by size. `x` is what the plots have as compute: see the column `x_axis`."""
    models = pl.concat([manifest.select("task", model=pl.col(side)) for side in ("weak", "strong")]).unique()
    sizes = (
        runs.filter(pl.col("kind").is_in(FINETUNED))
        .group_by("task", "model")
        .agg(pl.col("n_params").max(), pl.col("n_matmul").max(), pl.col("pretrain_flops").mean())
    )
    frame = (
        models.join(sizes, on=["task", "model"], how="left", validate="1:1")
        .sort("task", "pretrain_flops", "n_matmul", "n_params", "model", nulls_last=True)
        .with_columns(rung=pl.int_range(pl.len()).over("task"))
    )
    has_compute = (pl.col("pretrain_flops") > 0).fill_null(False).all().over("task")
    has_size = (pl.col("n_matmul") > 0).fill_null(False).all().over("task")
    return frame.with_columns(
        x=pl.when(has_compute)
        .then(pl.col("pretrain_flops"))
        .when(has_size)
        .then(pl.col("n_matmul").cast(pl.Float64))
        .otherwise(10.0 ** (pl.col("rung") + 1)),
        x_axis=pl.when(has_compute)
        .then(pl.lit("compute"))
        .when(has_size)
        .then(pl.lit("parameters"))
        .otherwise(pl.lit("rung")),
    ).select("task", "rung", "model", "n_params", "n_matmul", "pretrain_flops", "x", "x_axis")


def _missing(store: _Store, rows: pl.DataFrame, done: set[str], damaged: set[str]) -> pl.DataFrame:
    ids = sorted({i for role in ROLES for i in rows[f"{role}_id"].unique()} - done - damaged)
    failed = dict(zip(ids, _parallel(lambda run_id: _has_failed(store, run_id), ids), strict=True))
    state = {i: "done" for i in done} | {i: "damaged" for i in damaged}
    state |= {i: "failed" if failed[i] else "not finished" for i in ids}
    return rows.with_columns(
        pl.col(f"{role}_id").replace_strict(state, return_dtype=pl.String).alias(f"{role}_state") for role in ROLES
    )


def _has_failed(store: _Store, run_id: str) -> bool:
    attempts = store.names(f"runs/{run_id}/attempts")
    return any("error.json" in store.names(f"runs/{run_id}/attempts/{attempt}") for attempt in attempts)


def _pairs_frame(manifest: pl.DataFrame, tests: Mapping[str, SharedTest], ladder: pl.DataFrame) -> pl.DataFrame:
    sizes = ladder.select("task", "model", "rung", "pretrain_flops", "x", "x_axis")
    frames = [pl.DataFrame(schema=PAIRS_SCHEMA)]
    for (task,), rows in manifest.group_by("task", maintain_order=True):
        test = tests[str(task)]
        if test.n_examples == 0:
            raise AnalysisError(
                f"the runs of task {task} have no test example in common, so they cannot be compared; name one sweep"
            )
        weak, student, ceiling = (test.predictions(rows[f"{role}_id"]) for role in ROLES)
        gold = test.gold[:, None]
        right, agree = weak == gold, weak == student
        n_right = right.sum(axis=0)
        accuracy = {"weak_acc": right.mean(axis=0), "student_acc": (student == gold).mean(axis=0)}
        accuracy["ceiling_acc"] = (ceiling == gold).mean(axis=0)
        pgr = metrics.performance_gap_recovered(*accuracy.values())
        gap = accuracy["ceiling_acc"] - accuracy["weak_acc"]
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = accuracy | {
                "gap": gap,
                "pgr": np.where(gap > 0, pgr, np.nan),
                "agreement": agree.mean(axis=0),
                "agreement_when_weak_right": (agree & right).sum(axis=0) / n_right,
                "agreement_when_weak_wrong": (agree & ~right).sum(axis=0) / (test.n_examples - n_right),
            }
        scored = rows.with_columns(
            pl.lit(test.n_examples, dtype=pl.Int64).alias("n_test"),
            *(pl.Series(name, values).fill_nan(None) for name, values in scores.items()),
        )
        weak_sizes = sizes.rename(
            {"model": "weak", "rung": "weak_rung", "pretrain_flops": "weak_pretrain_flops", "x": "weak_x"}
        )
        strong_sizes = sizes.drop("x_axis").rename(
            {"model": "strong", "rung": "strong_rung", "pretrain_flops": "strong_pretrain_flops", "x": "strong_x"}
        )
        joined = (
            scored.join(weak_sizes, on=["task", "weak"], how="left", validate="m:1")
            .join(strong_sizes, on=["task", "strong"], how="left", validate="m:1")
            .with_columns(
                size_gap=pl.col("strong_rung") - pl.col("weak_rung"),
                log10_compute_ratio=pl.when(pl.col("x_axis") == "compute").then(
                    (pl.col("strong_x") / pl.col("weak_x")).log10()
                ),
            )
        )
        frames.append(joined.select(pl.col(column).cast(kind) for column, kind in PAIRS_SCHEMA.items()))
    return pl.concat(frames).sort(PAIR_ORDER)


def _versions(records: Iterable[_Record]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for record in records:
        for package, version in (record.description.get("versions") or {}).items():
            found.setdefault(str(package), set()).add(str(version))
    return {package: ", ".join(sorted(versions)) for package, versions in sorted(found.items())}
