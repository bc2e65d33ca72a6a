"""The results of sweeps as two tables, read from the store (`docs/architecture.md`, "The store").

`load` reads only what a `DONE` file names and whose SHA-256 fits. What cannot be read is left out and named in
`Results.problems`; pairs that are not complete are kept apart in `Results.missing`. Everything scores the split
`test`: supervisors and ceilings at the final step, students at the step that the pair's `stop` chooses.

A run's id does not cover names, so `run.json` says what the first sweep called its task and rung. Another sweep may
call them otherwise: everywhere here runs bear the names of the manifest; those in no manifest keep their own.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import polars as pl

from analysis import metrics
from analysis.errors import AnalysisError
from analysis.gaps import with_has_gap
from analysis.reading import (
    FINETUNED,
    PREDICTING,
    REMEDY,
    Record,
    Store,
    Unreadable,
    check_test,
    first_line,
    open_store,
    parallel,
    path_of,
    read_predictions,
    read_run,
    read_runs,
    scored,
)
from analysis.settings import RunSettings, settings_in_words
from analysis.stopping import Stop, stop_step, weak_labels

ROLES = ("supervisor", "student", "ceiling")
SIDES = {"supervisor": "weak", "student": "strong", "ceiling": "strong"}
"""The column of the manifest that names the rung of each role's run."""

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
    "baseline": pl.String,
    "stop": pl.String,
    "oracle": pl.Boolean,
    "links": pl.String,
}
MANIFEST_DEFAULTS: dict[str, Any] = {"baseline": "", "stop": Stop.LAST.value, "oracle": False, "links": ""}
"""What older manifests, which lack these columns, mean."""
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
    "accepted": pl.Float64,
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
    "max_length": pl.Int64,
    "host": pl.String,
    "base_id": pl.String,
    "supervisor_id": pl.String,
    "tokenizer_id": pl.String,
}
PAIRS_SCHEMA: dict[str, Any] = MANIFEST_SCHEMA | {
    "student_view": pl.String,
    "stop_step": pl.Int64,
    "size_gap": pl.Int64,
    "log10_compute_ratio": pl.Float64,
    "weak_pretrain_flops": pl.Float64,
    "strong_pretrain_flops": pl.Float64,
    "n_test": pl.Int64,
    "weak_acc": pl.Float64,
    "student_acc": pl.Float64,
    "ceiling_acc": pl.Float64,
    "gap": pl.Float64,
    "has_gap": pl.Boolean,
    "pgr": pl.Float64,
    "agreement": pl.Float64,
    "agreement_when_weak_right": pl.Float64,
    "agreement_when_weak_wrong": pl.Float64,
}
PAIR_ORDER = ("task", "settings", "part", "method", "weak", "strong", "seed", "student_id", "ceiling_id", "stop")
_WORDS = {"task": "task", "model": "rung"}
_FOLDERS_SEARCHED = 200
"""Folders looked into for storages when the one given is none."""


@dataclass(frozen=True)
class SharedTest:
    """Test predictions of all runs of one task, on the examples that all of them have, in one order.

    A column is a run at its final step, or a student stopped early: a *view* of a run, see `view_of`.
    """

    task: str
    example_ids: pl.Series
    """Sorted, shape (example,)."""
    gold: np.ndarray
    """Labels, shape (example,)."""
    prediction: np.ndarray
    """Hard predictions, shape (example, view)."""
    column: Mapping[str, int]
    """Position of each view in `prediction`."""
    accepted: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Of tasks that judge answers: whether each is right or another that counts, bool, shape (example,), by view. A
    view whose answers nobody judged, such as a vote, is not there."""

    @property
    def n_examples(self) -> int:
        return self.gold.size

    def predictions(self, views: Iterable[str]) -> np.ndarray:
        """Hard predictions of some views, shape (example, view)."""
        return self.prediction[:, [self.column[view] for view in views]]

    def correct(self, views: Iterable[str]) -> np.ndarray:
        """Whether each prediction is right, bool, shape (example, view)."""
        return self.predictions(views) == self.gold[:, None]


class Asked(NamedTuple):
    """What a task wants scored beside accuracy."""

    metrics: tuple[str, ...]
    """Names in `metrics.DECLARED`."""
    unsafe_label: int | None
    """The class that is harmful."""


def view_of(student_id: str, stop: str) -> str:
    """The name of a student stopped by some rule in `SharedTest`; its plain id where nothing stops it."""
    return student_id if stop == Stop.LAST else f"{student_id}@{stop}"


@dataclass(frozen=True)
class Results:
    """Everything the rest of the analysis works from."""

    storage: str
    sweep: str | None
    runs: pl.DataFrame
    """One row per finished, readable run (`RUNS_SCHEMA`). `settings` is the settings' digest."""
    pairs: pl.DataFrame
    """One row per complete pair (`PAIRS_SCHEMA`): scores on the test examples that the task's runs share.

    `student_view` is the student's column in `tests`, `stop_step` the step of it that counts. `baseline` is empty where
    supervisor and ceiling are the grid's own, and otherwise names the variant that the method is measured against.
    `has_gap` is decided over seeds (`analysis.gaps`): where it is false, the `pgr` of a single seed means nothing."""
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
    settings: Mapping[tuple[str, str], str]
    """What tells the settings of a task apart, by task and digest; see `analysis.settings`."""
    _store: "Store" = field(repr=False)
    asked: Mapping[str, Asked] = field(default_factory=dict)
    """By task, of those that want something scored beside accuracy."""

    def __repr__(self) -> str:
        of = f"sweep {self.sweep}" if self.sweep else "all sweeps"
        return (
            f"Results({self.storage}, {of}: {self.runs.height} runs, {self.pairs.height} pairs,"
            f" {self.missing.height} missing pairs, {len(self.problems)} problems)"
        )

    def predictions(self, run_id: str) -> pl.DataFrame:
        """Predictions of one run at its final step, on all splits, sorted by (`split`, `example_id`).

        Raises:
            AnalysisError: The run is not finished, has no predictions, or its files are damaged.
        """
        frame = self.evaluations(run_id)
        return frame.filter(pl.col("step") == pl.col("step").max()).sort("split", "example_id")

    def tags(self, task: str) -> pl.DataFrame | None:
        """Tags of a task's examples (`example_id`, `tags`), of the first sweep that has any; None without."""
        for sweep in [self.sweep] if self.sweep else self._store.names("sweeps"):
            try:
                raw = self._store.read(f"sweeps/{sweep}/examples/{quote(task, safe=' ')}.parquet")
                return pl.read_parquet(io.BytesIO(raw), columns=["example_id", "tags"])
            except (OSError, pl.exceptions.PolarsError):
                continue  # not there, or damaged: a table less
        return None

    def evaluations(self, run_id: str) -> pl.DataFrame:
        """Predictions of one run at every step, sorted by (`split`, `step`, `example_id`).

        Raises:
            AnalysisError: The run is not finished, has no predictions, or its files are damaged.
        """
        try:
            record = read_run(self._store, run_id, with_predictions=False)
            if record is None:
                raise Unreadable(f"runs/{run_id} is not finished")
            frame = read_predictions(self._store, record, every_step=True)
        except Unreadable as error:
            raise AnalysisError(f"{error}. {REMEDY}") from None
        return frame.sort("split", "step", "example_id")


@dataclass(frozen=True)
class _View:
    """Test predictions under a name in `SharedTest`."""

    run_id: str
    step: int
    test: pl.DataFrame = field(repr=False)
    """Sorted by example_id."""


@dataclass(frozen=True)
class _Called:
    """What a sweep calls a run."""

    sweep: str
    names: Mapping[str, str]
    """`task`, `form` and `model`, as in run.json; a pretrained model has only the last."""


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
    store = open_store(storage)
    _refuse_parent(store, storage)
    problems: list[str] = []
    manifests, asked = _manifests(store, sweep, storage, problems)
    manifest = pl.concat([pl.DataFrame(schema=MANIFEST_SCHEMA), *manifests.values()]).unique().sort(PAIR_ORDER)
    names = _names(manifests)

    named = {run_id for role in ROLES for run_id in manifest[f"{role}_id"].unique()}
    links = {link for chain in manifest["links"].unique() for link in chain.split(",") if link}
    wanted = named | links if sweep else named | links | set(store.names("runs"))
    records, unfinished, damaged = read_runs(store, wanted, problems)
    records = _renamed(records, names)
    left_out = _without_test(records, named)
    views, unstopped = _views(store, records, manifest)
    problems += unstopped.values()
    tests, contradicting, notes = _shared_tests(records, views)
    left_out |= contradicting
    for run_id, text in left_out.items():
        problems.append(text)
        damaged.add(run_id)
        del records[run_id]

    runs = _runs_frame(records)
    ladder = _ladder(manifest, runs)
    manifest = manifest.with_columns(student_view=_view_column())
    complete = pl.all_horizontal(pl.col(f"{role}_id").is_in(list(records)) for role in ROLES)
    complete &= ~pl.col("student_view").is_in(list(unstopped))
    missing = _missing(store, manifest.filter(~complete), set(records), damaged, set(unstopped))
    pairs = _pairs_frame(manifest.filter(complete), tests, views, ladder)
    if not records:
        notes.append(f"{storage} holds no finished runs yet" + (f" of sweep {sweep}" if sweep else ""))
    elif manifest.is_empty():
        notes.append("no sweep with weak-to-strong pairs was found, so there is nothing to compare")
    if unfinished:
        one = unfinished == 1
        notes.append(f"{unfinished} {'run' if one else 'runs'} of the plan {'is' if one else 'are'} not finished")
    return Results(
        storage=storage,
        sweep=sweep,
        runs=runs,
        pairs=pairs,
        missing=missing,
        tests=tests,
        ladder=ladder,
        versions=_versions(records.values()),
        settings=settings_in_words(_run_settings(records.values())),
        asked=asked,
        problems=tuple(sorted(problems)),
        notes=tuple(notes),
        _store=store,
    )


def _refuse_parent(store: Store, storage: str) -> None:
    """Refuse a folder that only holds storages: read as one, it would be an empty one."""
    names = store.names("")
    if {"runs", "sweeps"} & set(names):
        return
    below = [name for name in names[:_FOLDERS_SEARCHED] if {"runs", "sweeps"} & set(store.names(name))]
    if below:
        listed = ", ".join(f"{storage.rstrip('/')}/{name}" for name in below[:10])
        listed += ", ..." if len(below) > 10 else ""
        raise AnalysisError(
            f"{storage} is no storage: it has neither runs/ nor sweeps/. There are storages below it: {listed}"
        )


# --- manifests -------------------------------------------------------------------------------------------------------


def _manifests(
    store: Store, sweep: str | None, storage: str, problems: list[str]
) -> tuple[dict[str, pl.DataFrame], dict[str, Asked]]:
    """The pairs of one sweep or of all, by sweep; and what their tasks want scored beside accuracy."""
    known = store.names("sweeps")
    if sweep is not None and sweep not in known:
        listed = ", ".join(known) or "none"
        raise AnalysisError(f"{storage} has no sweep {sweep!r}; its sweeps: {listed}")
    frames: dict[str, pl.DataFrame] = {}
    asked: dict[str, Asked] = {}
    for name in [sweep] if sweep is not None else known:
        path = f"sweeps/{name}/manifest.parquet"
        try:
            frame = pl.read_parquet(io.BytesIO(store.read(path)))
            frames[name] = _with_defaults(frame)
            _ask(asked, frame, path, problems)
        except FileNotFoundError:
            problems.append(f"{path} is missing, so the pairs of this sweep are unknown. {REMEDY}")
        except (pl.exceptions.PolarsError, OSError) as error:
            problems.append(f"{path} cannot be read as a manifest ({first_line(error)}). {REMEDY}")
    return frames, asked


def _ask(asked: dict[str, Asked], manifest: pl.DataFrame, path: str, problems: list[str]) -> None:
    """Add what the tasks of a manifest want scored, in columns that older manifests lack."""
    if not {"metrics", "unsafe_label"} <= set(manifest.columns):
        return
    for task, wanted, unsafe in manifest.select("task", "metrics", "unsafe_label").unique().sort("task").iter_rows():
        names = tuple(name for name in (wanted or "").split(",") if name)
        known = tuple(
            name for name in names if name in metrics.DECLARED and not (name in metrics.OF_HARM and unsafe is None)
        )
        if unknown := sorted(set(names) - set(known)):
            problems.append(f"{path}: task {task} asks for {', '.join(unknown)}, which cannot be scored here")
        if not known:
            continue
        before = asked.get(task, Asked((), None))
        harmful = unsafe if before.unsafe_label is None else before.unsafe_label
        if unsafe not in (None, harmful):
            problems.append(
                f"{path}: the harmful class of task {task} is {unsafe}, in another sweep {harmful}; scores of harm take"
                " the latter. Name one sweep"
            )
        asked[task] = Asked(tuple(dict.fromkeys(before.metrics + known)), harmful)


def _with_defaults(manifest: pl.DataFrame) -> pl.DataFrame:
    """A manifest of any age under today's columns."""
    absent = {name: value for name, value in MANIFEST_DEFAULTS.items() if name not in manifest.columns}
    frame = manifest.with_columns(pl.lit(value).alias(name) for name, value in absent.items())
    frame = frame.select(pl.col(column).cast(kind) for column, kind in MANIFEST_SCHEMA.items())
    return frame.with_columns(pl.col(name).fill_null(value) for name, value in MANIFEST_DEFAULTS.items())


# --- names -----------------------------------------------------------------------------------------------------------


def _names(manifests: Mapping[str, pl.DataFrame]) -> dict[str, _Called]:
    """What the manifests call the runs of their pairs, by run id."""
    called: dict[str, _Called] = {}
    for sweep, frame in manifests.items():
        for role, side in SIDES.items():
            columns = (f"{role}_id", "task", "form", side)
            own = frame.filter(pl.col("baseline") == "")
            for run_id, task, form, model in own.select(columns).unique().sort(columns).iter_rows():
                _call(called, run_id, _Called(sweep, {"task": task, "form": form, "model": model}))
    # A variant of a baseline may stand in for several rungs, as an ensemble does for its members: it has no one name
    # to contradict, so it only takes one where nothing else has.
    for sweep, frame in manifests.items():
        for role, side in SIDES.items():
            columns = (f"{role}_id", "task", "form", side)
            variants = frame.filter(pl.col("baseline") != "")
            for run_id, task, form, model in variants.select(columns).unique().sort(columns).iter_rows():
                called.setdefault(run_id, _Called(sweep, {"task": task, "form": form, "model": model}))
    return called


def _renamed(records: Mapping[str, Record], called: Mapping[str, _Called]) -> dict[str, Record]:
    """The records under the manifests' names; models that runs start from are called as the rung of those runs."""
    every = dict(called)
    for run_id, name in called.items():
        # More than one step where a model was adapted between pretraining and finetuning.
        for base in _bases(records, run_id):
            _call(every, base, _Called(name.sweep, {"model": name.names["model"]}))
    return {
        run_id: replace(record, description={**record.description, **every[run_id].names})
        if run_id in every
        else record
        for run_id, record in records.items()
    }


def _bases(records: Mapping[str, Record], run_id: str) -> list[str]:
    """The models that a run started from, the nearest first, each itself started from the next."""
    found: list[str] = []
    while run_id in records and records[run_id].description["kind"] != "labels":  # they are of no model
        parents = records[run_id].description["parents"]
        run_id = parents.get("base") or parents.get("activations") or ""
        if not run_id or run_id in found:
            break
        found.append(run_id)
    return found


def _call(called: dict[str, _Called], run_id: str, name: _Called) -> None:
    known = called.setdefault(run_id, name)
    if all(known.names.get(key, value) == value for key, value in name.names.items()):
        return
    # `form` is part of what a run is, so the task or the rung differs.
    one, other = (", ".join(f"{_WORDS[key]} {n[key]}" for key in n if key in _WORDS) for n in (known.names, name.names))
    remedy = "name one sweep" if known.sweep != name.sweep else "list it once in the spec, and run the sweep again"
    raise AnalysisError(
        f"run {run_id} is {one} in sweep {known.sweep}, but {other} in sweep {name.sweep}: a run cannot be counted"
        f" under two names; {remedy}"
    )


# --- tables ----------------------------------------------------------------------------------------------------------


def _without_test(records: Mapping[str, Record], named: set[str]) -> dict[str, str]:
    """Runs that pairs name although they predict nothing on test, with what is wrong."""
    return {
        run_id: f"runs/{run_id}, a run of kind {records[run_id].description['kind']}, has no predictions on the split"
        f" test, but a pair needs them; the run is left out. {REMEDY}"
        for run_id in sorted(named & set(records))
        if records[run_id].test is None
    }


def _view_column() -> pl.Expr:
    """`view_of` as an expression."""
    plain = pl.col("stop") == Stop.LAST.value
    return pl.when(plain).then(pl.col("student_id")).otherwise(pl.format("{}@{}", "student_id", "stop"))


def _views(
    store: Store, records: Mapping[str, Record], manifest: pl.DataFrame
) -> tuple[dict[str, _View], dict[str, str]]:
    """All views by name, and those that could not be made with the reason. Of each run only the steps that count are
    kept."""
    views = {i: _View(i, r.step, r.test) for i, r in records.items() if r.test is not None}
    stops: dict[str, list[str]] = {}
    rows = manifest.filter(pl.col("stop") != Stop.LAST.value).select("student_id", "stop").unique()
    for student_id, stop in rows.sort("student_id", "stop").iter_rows():
        if student_id in views:
            stops.setdefault(student_id, []).append(stop)
    failed: dict[str, str] = {}
    students = list(stops)
    for stopped in parallel(store, lambda i: _stopped(store, records, i, stops[i]), students):
        for name, outcome in stopped.items():
            if isinstance(outcome, _View):
                views[name] = outcome
            else:
                failed[name] = outcome
    return views, failed


def _stopped(
    store: Store, records: Mapping[str, Record], student_id: str, stops: Sequence[str]
) -> dict[str, _View | str]:
    """One student stopped by several rules."""
    record = records[student_id]
    outcomes: dict[str, _View | str] = {}
    try:
        evaluations = read_predictions(store, record, every_step=True)
        source = records.get(record.description["parents"].get("supervisor") or "")
        labels = None
        if Stop.WEAK.value in stops and source is not None and source.description["kind"] in PREDICTING:
            labels = weak_labels(read_predictions(store, source))
    except Unreadable as error:
        return {view_of(student_id, stop): f"{error}; early stopping is left out. {REMEDY}" for stop in stops}
    for stop in stops:
        name = view_of(student_id, stop)
        try:
            step = stop_step(evaluations, Stop(stop), labels)
            rows = evaluations.filter(pl.col("split") == "test", pl.col("step") == step)
            test = rows.drop("split", "step").sort("example_id")
            check_test(test, path_of(record, "predictions.parquet"))
        except ValueError:
            known = ", ".join(Stop)
            outcomes[name] = f"a manifest stops run {student_id} by the rule {stop!r}; the known rules: {known}"
        except (AnalysisError, Unreadable) as error:
            outcomes[name] = f"runs/{student_id}: {error}; its pairs are left out. {REMEDY}"
        else:
            outcomes[name] = _View(student_id, step, scored(test))
    return outcomes


def _shared_tests(
    records: Mapping[str, Record], views: Mapping[str, _View]
) -> tuple[dict[str, SharedTest], dict[str, str], list[str]]:
    """Test predictions per task, runs whose gold labels contradict the others', and notes."""
    tests: dict[str, SharedTest] = {}
    left_out: dict[str, str] = {}
    notes: list[str] = []
    task_of = {name: records[view.run_id].description["task"] for name, view in views.items()}
    for task in sorted(set(task_of.values())):
        own = {name: view for name, view in views.items() if task_of[name] == task}
        shared = _common_ids([view.test["example_id"] for view in own.values()])
        largest = max(view.test.height for view in own.values())
        if len(shared) < largest:
            notes.append(
                f"runs of task {task} were tested on different examples: pairs are scored on the {len(shared):,} that"
                f" all have, of up to {largest:,}"
            )
        gold: np.ndarray | None = None
        column: dict[str, int] = {}
        predictions: list[np.ndarray] = []
        accepted: dict[str, np.ndarray] = {}
        for name, view in own.items():
            frame = view.test
            rows = (
                frame
                if frame["example_id"].equals(shared)
                else frame.filter(pl.col("example_id").is_in(shared.implode()))
            )
            labels = rows["gold"].to_numpy()
            if gold is None:
                gold = labels
            elif differing := int(np.sum(labels != gold)):
                path, other = path_of(records[view.run_id], "predictions.parquet"), next(iter(column))
                left_out[view.run_id] = (
                    f"{path}: gold labels differ from those of run {other} on {differing} test examples; the run"
                    f" is left out. {REMEDY}"
                )
                continue
            column[name] = len(predictions)
            predictions.append(rows["prediction"].to_numpy())
            if "accepted" in rows.columns:
                accepted[name] = rows["accepted"].to_numpy()
        if gold is not None:
            tests[task] = SharedTest(task, shared, gold, np.stack(predictions, axis=1), column, accepted)
    return tests, left_out, notes


def _common_ids(ids: Sequence[pl.Series]) -> pl.Series:
    """Example ids that all have; each is sorted and without repeats, and so is the result."""
    shared = ids[0]
    for other in ids[1:]:
        if not other.equals(shared):
            shared = shared.filter(shared.is_in(other.implode()))
    return shared


def _runs_frame(records: Mapping[str, Record]) -> pl.DataFrame:
    rows = []
    for run_id, record in records.items():
        description, parents = record.description, record.description["parents"]
        row = {key: record.measures.get(key) for key in RUNS_SCHEMA}
        for base in _bases(records, run_id):
            if row["pretrain_flops"] is None and base in records:
                row["pretrain_flops"] = records[base].measures.get("pretrain_flops")
        row |= {key: description.get(key) for key in ("kind", "task", "form", "seed", "model", "train_part", "method")}
        row |= {
            "run_id": run_id,
            "method_label": description.get("method_label"),
            "settings": description.get("settings_id"),
            "max_length": (description.get("settings") or {}).get("max_length"),
        }
        row |= {f"{key}_id": parents.get(key) for key in ("base", "supervisor", "tokenizer")}
        rows.append(row | dict(record.scores))
    frame = pl.DataFrame(rows, schema=RUNS_SCHEMA, strict=False)
    return frame.sort("kind", "task", "settings", "method_label", "model", "seed", "run_id", nulls_last=True)


def _ladder(manifest: pl.DataFrame, runs: pl.DataFrame) -> pl.DataFrame:
    """Models of each task by size. `x` is what the plots have as compute: see the column `x_axis`."""
    models = pl.concat([manifest.select("task", model=pl.col(side)) for side in ("weak", "strong")]).unique()
    finetuned = pl.col("kind").is_in(FINETUNED)
    sizes = (
        # Probes and prompts have other heads, so they tell the size only of what is never finetuned.
        runs.filter(pl.col("kind").is_in(PREDICTING) & (pl.col("kind") != "labels"))
        .filter(finetuned | ~finetuned.any().over("task", "model"))
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


def _missing(store: Store, rows: pl.DataFrame, done: set[str], damaged: set[str], unstopped: set[str]) -> pl.DataFrame:
    ids = sorted({i for role in ROLES for i in rows[f"{role}_id"].unique()} - done - damaged)
    failed = dict(zip(ids, parallel(store, lambda run_id: _has_failed(store, run_id), ids), strict=True))
    state = {i: "done" for i in done} | {i: "damaged" for i in damaged}
    state |= {i: "failed" if failed[i] else "not finished" for i in ids}
    states = rows.with_columns(
        pl.col(f"{role}_id").replace_strict(state, return_dtype=pl.String).alias(f"{role}_state") for role in ROLES
    )
    return states.with_columns(
        student_state=pl.when(pl.col("student_view").is_in(list(unstopped)))
        .then(pl.lit("without a step to stop at"))
        .otherwise(pl.col("student_state"))
    ).drop("student_view")


def _has_failed(store: Store, run_id: str) -> bool:
    attempts = store.names(f"runs/{run_id}/attempts")
    return any("error.json" in store.names(f"runs/{run_id}/attempts/{attempt}") for attempt in attempts)


def _pairs_frame(
    manifest: pl.DataFrame, tests: Mapping[str, SharedTest], views: Mapping[str, _View], ladder: pl.DataFrame
) -> pl.DataFrame:
    sizes = ladder.select("task", "model", "rung", "pretrain_flops", "x", "x_axis")
    schema = {name: kind for name, kind in PAIRS_SCHEMA.items() if name != "has_gap"}
    frames = [pl.DataFrame(schema=schema)]
    for (task,), rows in manifest.group_by("task", maintain_order=True):
        test = tests[str(task)]
        if test.n_examples == 0:
            raise AnalysisError(
                f"the runs of task {task} have no test example in common, so they cannot be compared; name one sweep"
            )
        names = ("supervisor_id", "student_view", "ceiling_id")
        weak, student, ceiling = (test.predictions(rows[name]) for name in names)
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
            pl.Series("stop_step", [views[name].step for name in rows["student_view"]], dtype=pl.Int64),
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
        frames.append(joined.select(pl.col(column).cast(kind) for column, kind in schema.items()))
    return with_has_gap(pl.concat(frames), tests).select(*PAIRS_SCHEMA).sort(PAIR_ORDER)


def _run_settings(records: Iterable[Record]) -> Iterable[RunSettings]:
    for record in records:
        of = record.description
        if of["kind"] in FINETUNED and isinstance(of.get("settings"), dict) and of.get("settings_id"):
            yield RunSettings(of["task"], of["settings_id"], of["model"], of["kind"], of["settings"])


def _versions(records: Iterable[Record]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for record in records:
        for package, version in (record.description.get("versions") or {}).items():
            found.setdefault(str(package), set()).add(str(version))
    return {package: ", ".join(sorted(versions)) for package, versions in sorted(found.items())}
