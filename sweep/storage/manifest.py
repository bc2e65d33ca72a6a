"""What a sweep leaves beside its runs: the list of its pairs, and the spec it came from."""

import io
from urllib.parse import quote

import polars as pl

from sweep.plan import Plan
from sweep.spec import Sweep
from sweep.storage.store import Store
from w2s.tasks import load_task

COLUMNS = {
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
TASK_COLUMNS = {"metrics": pl.String, "unsafe_label": pl.Int8}
"""What each row says of its task: which scores there are beside accuracy, joined by commas, and which class is the
harmful one. No part of what a pair is."""


def sweep_id(spec: Sweep, plan: Plan) -> str:
    """The sweep's name and a hash of its pairs: another grid under the same name is another sweep."""
    return f"{spec.name}-{plan.sweep_hash[:8]}"


def write_manifest(store: Store, spec: Sweep, plan: Plan, spec_text: bytes) -> str:
    """Write `sweeps/<id>/manifest.parquet`, `spec.yaml` with the text of the spec, and the tags of examples; returns
    the id."""
    name = sweep_id(spec, plan)
    rows = [[getattr(pair, column) for column in COLUMNS] for pair in plan.pairs]
    tasks = {run.task.spec.name: run.task for run in plan.runs.values() if run.task is not None}
    said = {task: (",".join(info.spec.metrics), info.spec.unsafe_label) for task, info in tasks.items()}
    rows = [row + list(said[pair.task]) for row, pair in zip(rows, plan.pairs, strict=True)]
    frame = pl.DataFrame(rows, schema=COLUMNS | TASK_COLUMNS, orient="row")
    store.write_object(store.path("sweeps", name, "manifest.parquet"), _parquet(frame))
    store.write_object(store.path("sweeps", name, "spec.yaml"), spec_text)
    tagged = [task for task in tasks.values() if task.summary.tags]
    there = store.listing("sweeps", name, "examples") if tagged else {}
    for task in tagged:
        file = f"{quote(task.spec.name, safe=' ')}.parquet"
        if file not in there:
            tags = load_task(task.spec).frame.select("example_id", "tags").sort("example_id")
            store.write_object(store.path("sweeps", name, "examples", file), _parquet(tags))
    return name


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()
