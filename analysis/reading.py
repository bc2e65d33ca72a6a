"""Reading finished runs from the store: only what a `DONE` file names and whose SHA-256 fits."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import fsspec
import fsspec.config
import polars as pl

from analysis import metrics
from analysis.errors import AnalysisError

READERS = 8
REMOTE_READERS = 32
"""Requests at once to object storage, where each takes long and costs little."""
FINETUNED = ("ground_truth", "transfer")
PREDICTING = (*FINETUNED, "probe", "prompt", "labels")
"""Kinds of runs that leave predictions. `labels` are derived ones: ensembles, filters, controls."""
SCORED = ("example_id", "gold", "prediction")
"""Columns of test predictions that are kept to compare runs; where a task judges answers, `accepted` too."""
REMEDY = "Remedy: run the sweep again; what is missing or damaged is made anew"
_PREDICTIONS_SCHEMA: dict[str, Any] = {
    "example_id": pl.String,
    "split": pl.String,
    "step": pl.Int64,
    "gold": pl.Int8,
    "prediction": pl.Int8,
    "correct": pl.Boolean,
    "p": pl.Float32,
}
_ANSWERS_SCHEMA = _PREDICTIONS_SCHEMA | {"gold": pl.Int64, "prediction": pl.Int64, "accepted": pl.Boolean}
"""Of form `generate`, once read: texts are numbers here, equal where the texts are. See `answer_code`."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Store:
    """A storage on any fsspec file system."""

    fs: Any
    root: str

    @property
    def is_remote(self) -> bool:
        return bool(getattr(self.fs, "async_impl", False))

    @property
    def _one_request(self) -> dict[str, int]:
        """For S3 and GCS, which would ask for the size first, to read large files in parallel."""
        protocols = (self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol
        return {"max_concurrency": 1} if "s3" in protocols else {"concurrency": 1} if "gs" in protocols else {}

    def read(self, path: str) -> bytes:
        """A file's bytes.

        Raises:
            AnalysisError: Object storage does not answer, or refuses. That is no damage of one run: a report without
                the runs that could not be read would be wrong.
            OSError: The file is not there, or a file system cannot read it.
        """
        with _told(self, path):
            return self.fs.cat_file(f"{self.root}/{path}", **self._one_request)

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when there is no such folder."""
        try:
            with _told(self, folder):
                entries = self.fs.ls(f"{self.root}/{folder}", detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries)


def open_store(storage: str) -> Store:
    """The storage at a folder or fsspec URL, as it is now.

    Raises:
        AnalysisError: There is none, it cannot be read, or its address carries a password.
    """
    before, at, _ = storage.partition("://")[2].partition("/")[0].rpartition("@")
    if at and ":" in before:  # the address is shown in reports and errors
        raise AnalysisError(
            f"the address {storage.replace(f'{before}@', '***@')} carries credentials; give them by the environment, "
            "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    options: dict[str, Any] = {}
    if storage.startswith(("s3://", "s3a://")):
        own = {"max_pool_connections": REMOTE_READERS}
        options["config_kwargs"] = own | fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    try:
        fs, root = fsspec.core.url_to_fs(storage, **options)
        fs.invalidate_cache()
        there = fs.exists(root)
    except Exception as error:  # every backend has its own errors
        raise AnalysisError(f"the storage at {storage!r} cannot be read: {first_line(error)}") from None
    if not there:
        raise AnalysisError(
            f"there is no storage at {storage!r}; give the folder or URL that `storage` names in the spec"
        )
    return Store(fs, root.rstrip("/"))


@contextlib.contextmanager
def _told(store: Store, path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except Exception as error:  # every backend has its own errors
        if not store.is_remote:
            raise
        raise AnalysisError(
            f"{store.root}/{path} cannot be read: {first_line(error)}; try again when the storage answers"
        ) from None


@dataclass(frozen=True)
class Record:
    """One finished run as its files tell it."""

    run_id: str
    attempt: str
    files: Mapping[str, Mapping[str, Any]]
    description: Mapping[str, Any]
    measures: Mapping[str, Any]
    test: pl.DataFrame | None = None
    """Test rows of the final step, sorted by example_id; None for runs that predict nothing."""
    step: int = 0
    """The final step."""
    scores: Mapping[str, float] = field(default_factory=dict)


class Unreadable(Exception):
    """A run or file is damaged; the text names it."""


def read_runs(store: Store, run_ids: set[str], problems: list[str]) -> tuple[dict[str, Record], int, set[str]]:
    """All runs asked for and all that they came from: (records by id, how many are not finished, damaged ids)."""
    records: dict[str, Record] = {}
    seen: set[str] = set()
    damaged: set[str] = set()
    unfinished = 0
    wanted = sorted(run_ids)
    while wanted:
        seen.update(wanted)
        for run_id, outcome in zip(wanted, parallel(store, lambda i: _try_read(store, i), wanted), strict=True):
            if isinstance(outcome, Unreadable):
                problems.append(f"{outcome}; the run is left out. {REMEDY}")
                damaged.add(run_id)
            elif outcome is None:
                unfinished += 1
            else:
                records[run_id] = outcome
        parents = {p for r in records.values() for p in r.description["parents"].values() if p and isinstance(p, str)}
        wanted = sorted(parents - seen)
    return dict(sorted(records.items())), unfinished, damaged


def read_run(store: Store, run_id: str, *, with_predictions: bool) -> Record | None:
    """One run from its files; None when it is not finished."""
    done_path = f"runs/{run_id}/DONE"
    try:
        raw = store.read(done_path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unreadable(f"{done_path} cannot be read ({first_line(error)})") from None
    done = _json(raw, done_path)
    attempt, files = done.get("attempt"), done.get("files")
    if not isinstance(attempt, str) or "/" in attempt or not isinstance(files, dict):
        raise Unreadable(f"{done_path} does not name an attempt and its files")
    record = Record(run_id, attempt, files, {}, {})
    description = _json(_checked(store, record, "run.json"), path_of(record, "run.json"))
    measures = _json(_checked(store, record, "metrics.json"), path_of(record, "metrics.json"))
    for key in ("kind", "model", "task", "seed", "train_part", "method", "parents"):
        if key not in description:
            raise Unreadable(f"{path_of(record, 'run.json')} lacks the key {key!r}")
    if not isinstance(description["parents"], dict):
        raise Unreadable(f"{path_of(record, 'run.json')}: parents is not a mapping")
    record = Record(run_id, attempt, files, description, measures)
    if not with_predictions or description["kind"] not in PREDICTING:
        return record
    final = read_predictions(store, record)
    test = final.filter(pl.col("split") == "test").drop("split", "step").sort("example_id")
    if test.is_empty() and description["kind"] == "labels":
        return record  # labels of training examples only; whoever is compared by them will be told
    check_test(test, path_of(record, "predictions.parquet"))
    return replace(record, test=scored(test), step=int(final["step"][0]), scores=_scores(test))


def read_predictions(store: Store, record: Record, *, every_step: bool = False) -> pl.DataFrame:
    """All rows of the final step, or of every step. Answers in words come as numbers (`answer_code`)."""
    path = path_of(record, "predictions.parquet")
    raw = _checked(store, record, "predictions.parquet")
    try:
        schema = _PREDICTIONS_SCHEMA
        if record.description.get("form") == "generate":
            frame, schema = _in_numbers(pl.read_parquet(io.BytesIO(raw))), _ANSWERS_SCHEMA
        else:
            frame = pl.read_parquet(io.BytesIO(raw), columns=list(schema))
        frame = frame.select(pl.col(column).cast(kind) for column, kind in schema.items())
        frame = frame.with_columns(pl.col("p").fill_nan(None))  # either way there is no probability
    except pl.exceptions.PolarsError as error:
        raise Unreadable(f"{path} cannot be read as predictions ({first_line(error)})") from None
    return frame if every_step else frame.filter(pl.col("step") == pl.col("step").max())


def answer_code(answer: str) -> int:
    """A number for an answer in words, the same everywhere: answers are equal if they are but for white space around.

    63 bits of the SHA-256: that two of a million answers share one by chance has a probability below 1e-7.
    """
    return int.from_bytes(hashlib.sha256(answer.strip().encode()).digest()[:8], "big") >> 1


def _in_numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """Predictions of `generate` with numbers for texts; no answer is a blank one."""
    texts = pl.concat([frame["gold"], frame["prediction"].fill_null("")]).unique()
    codes = pl.Series([None if text is None else answer_code(text) for text in texts], dtype=pl.Int64)
    numbered = frame.with_columns(
        pl.col("gold").replace_strict(texts, codes, return_dtype=pl.Int64),
        pl.col("prediction").fill_null("").replace_strict(texts, codes, return_dtype=pl.Int64),
    )
    return numbered if "accepted" in frame.columns else numbered.with_columns(accepted=pl.lit(None, pl.Boolean))


def parallel(store: Store, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    with ThreadPoolExecutor(max_workers=REMOTE_READERS if store.is_remote else READERS) as pool:
        return list(pool.map(function, items))


def _try_read(store: Store, run_id: str) -> "Record | Unreadable | None":
    try:
        return read_run(store, run_id, with_predictions=True)
    except Unreadable as error:
        return error


def check_test(test: pl.DataFrame, path: str) -> None:
    if test.is_empty():
        raise Unreadable(f"{path} has no rows of split 'test' at its final step")
    if test["example_id"].null_count() or test["gold"].null_count() or test["prediction"].null_count():
        raise Unreadable(f"{path} has empty cells in example_id, gold or prediction")
    binary = test.schema["gold"] != pl.Int64
    if binary and not test.select(pl.all_horizontal(pl.col("gold", "prediction").is_in([0, 1])).all()).item():
        raise Unreadable(f"{path} has labels other than 0 and 1 among its test rows")
    outside = test.filter(~pl.col("p").is_between(0, 1)).height
    if outside:
        raise Unreadable(f"{path} has {outside} test rows whose p, a probability, is outside [0, 1]")
    twice = test.height - test["example_id"].n_unique()
    if twice:
        raise Unreadable(f"{path} has {twice} test examples twice at its final step")
    wrong = test.filter(pl.col("correct") != (pl.col("gold") == pl.col("prediction"))).height
    if wrong:
        raise Unreadable(f"{path}: the column correct contradicts gold and prediction in {wrong} test rows")


def scored(test: pl.DataFrame) -> pl.DataFrame:
    """The columns of `SCORED`; and where a task judged any answer, `accepted`: right, or judged acceptable."""
    judged = "accepted" in test.columns and test["accepted"].null_count() < test.height
    accepted = (pl.col("correct") | pl.col("accepted").fill_null(False),) if judged else ()
    return test.select(*SCORED, *(column.alias("accepted") for column in accepted))


def _scores(test: pl.DataFrame) -> dict[str, float]:
    gold, prediction = test["gold"].to_numpy(), test["prediction"].to_numpy()
    scores = {"n_test": gold.size, "accuracy": metrics.accuracy(gold, prediction)}
    accepted = scored(test)
    if "accepted" in accepted.columns:
        scores["accepted"] = float(accepted["accepted"].to_numpy().mean())
    if test["p"].null_count() == 0:
        p = test["p"].to_numpy()
        scores |= {
            "auroc": metrics.auroc(gold, p),
            "log_loss": metrics.log_loss(gold, p),
            "calibration_error": metrics.calibration_error(gold, p),
        }
    return scores


def _checked(store: Store, record: Record, name: str) -> bytes:
    """A file's bytes, when they are the ones that DONE names."""
    path = path_of(record, name)
    expected = record.files.get(name)
    if not isinstance(expected, dict) or "sha256" not in expected:
        raise Unreadable(f"runs/{record.run_id}/DONE does not name {name}")
    try:
        raw = store.read(path)
    except OSError as error:
        raise Unreadable(f"{path} cannot be read ({first_line(error)})") from None
    actual = hashlib.sha256(raw).hexdigest()
    if actual != expected["sha256"]:
        raise Unreadable(f"{path} is damaged: its SHA-256 is {actual[:12]}..., DONE says {expected['sha256'][:12]}...")
    return raw


def path_of(record: Record, name: str) -> str:
    return f"runs/{record.run_id}/attempts/{record.attempt}/{name}"


def _json(raw: bytes, path: str) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise Unreadable(f"{path} is not JSON ({first_line(error)})") from None
    if not isinstance(value, dict):
        raise Unreadable(f"{path} does not hold a JSON object")
    return value


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
