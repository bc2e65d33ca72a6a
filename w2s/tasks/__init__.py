"""Tasks: from a spec to binary examples in fixed parts.

`load_task` is the way in; `SOURCES` says what there is. A new source is one module and one entry here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from w2s.config import Balance, CatalogueTask, ChessTask, FactsTask, FilesTask, Form, HubTask, PythonTask, TaskSpec
from w2s.fingerprints import HashFile, digest, hash_file
from w2s.tasks.base import TaskData, TaskSummary, summarise
from w2s.tasks.build import Row, SourceRows, build_task
from w2s.tasks.catalogue import Pair, Question, Statement
from w2s.tasks.catalogued import Resolve, catalogue_identity, is_expanded, placed, read_catalogue
from w2s.tasks.facts import read_facts
from w2s.tasks.files import files_identity, read_files
from w2s.tasks.hub import hub_identity, read_hub
from w2s.tasks.python import python_identity, read_python

__all__ = [
    "JUDGES",
    "SOURCES",
    "Pair",
    "Question",
    "Row",
    "Source",
    "SourceRows",
    "Statement",
    "TaskData",
    "TaskSummary",
    "from_rows",
    "has_prompts",
    "judge_of",
    "load_task",
    "read_rows",
    "resolve_task",
    "summarise",
    "task_fingerprint",
]

LOADER_VERSION = 1
"""Part of every task fingerprint; raise it when a change here gives other examples for the same source."""


@dataclass(frozen=True)
class Source:
    """What `w2s tasks` says about a kind of task."""

    name: str
    forms: tuple[Form, ...]
    summary: str


_BOTH: tuple[Form, ...] = ("classify", "compare")
_ALL: tuple[Form, ...] = (*_BOTH, "generate")
SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            "facts", _BOTH, "12,800 statements about an invented world; offline, with a corpus to pretrain rungs on"
        ),
        Source("files", _ALL, "your own JSONL, CSV, TSV or Parquet files, plain or gzipped"),
        Source("hub", _ALL, "a Hugging Face dataset by its id, or a local copy of one"),
        Source("catalogue", _BOTH, "a dataset known here by name, from the hub or a mirror; the list below"),
        Source("python", _BOTH, "a function of yours that returns rows; w2s tasks new NAME --kind python begins one"),
        Source("chess", ("generate",), "chess puzzles: proven mates from self-play, offline, or puzzles of lichess"),
    )
}


def load_task(spec: TaskSpec) -> TaskData:
    """Load a task's examples and put each in its part. The same spec and content give the same frame on every machine.

    Raises:
        DataError: The source cannot be read or used; the message names file, column and value.
    """
    return from_rows(spec, read_rows(spec))


def from_rows(spec: TaskSpec, rows: SourceRows) -> TaskData:
    """A task's rows, put into parts.

    Raises:
        DataError: One-class data, or sizes that cannot be met.
    """
    return build_task(spec.form, rows.pool, rows.test, spec.splits, rows.dropped, balance=_balance(spec))


def _balance(spec: TaskSpec) -> Balance:
    if isinstance(spec, FactsTask | ChessTask):
        return "never"
    if isinstance(spec, CatalogueTask) and spec.balance == "paper" and is_expanded(spec):
        return "always"  # as many wrong as right rows, also where a copy of one of them is left out
    return spec.balance


def read_rows(spec: TaskSpec) -> SourceRows:
    """A task's rows before they are put into parts.

    Raises:
        DataError: The source cannot be read or used; the message names file, column and value.
    """
    match spec:
        case FactsTask():
            return read_facts(spec)
        case FilesTask():
            return read_files(spec)
        case HubTask():
            return read_hub(spec)
        case CatalogueTask():
            return read_catalogue(spec)
        case PythonTask():
            return read_python(spec)
        case ChessTask():
            from w2s.chess.source import read_chess

            return read_chess(spec)


def resolve_task(spec: TaskSpec, resolve: Resolve) -> TaskSpec:
    """The task with the commit or the folder that it is read from, so that it is the same wherever it is run.

    Args:
        spec: As written.
        resolve: Gives the commit of a hub dataset.

    Raises:
        DataError: There is no such dataset, or no connection and no copy; says what to do.
    """
    match spec:
        case HubTask():
            return spec.model_copy(update={"revision": resolve(spec.id, spec.revision)})
        case ChessTask() if spec.id is not None:
            return spec.model_copy(update={"revision": resolve(spec.id, spec.revision)})
        case CatalogueTask():
            return placed(spec, resolve)
        case _:
            return spec


def has_prompts(spec: TaskSpec) -> bool:
    """Whether the pairs of a `compare` task have prompts, as far as its spec says; those of python tasks may have."""
    if spec.form != "compare" or isinstance(spec, FactsTask):
        return False
    if isinstance(spec, FilesTask | HubTask):
        return spec.columns.prompt is not None or spec.prompt_separator is not None
    return True


def task_fingerprint(spec: TaskSpec, *, hash_file: HashFile = hash_file) -> str:
    """Hash of everything that determines a task's examples and parts; no row is read.

    It covers the spec but for the task's name, prompt and metrics, the bytes of the files but not where they lie, a
    dataset's commit, the source of user-written code, and the version of this loader.

    Args:
        spec: The task.
        hash_file: Content hash of a file; a caller may hand in one that remembers.

    Raises:
        DataError: A file is missing, or a dataset's commit cannot be found out.
    """
    written = spec.model_dump(mode="json", exclude={"name", "prompt", "metrics", "unsafe_label"})
    content: dict[str, Any] = {"spec": written, "loader": LOADER_VERSION}
    if written.get("balance") == "never":
        del written["balance"]  # so that tasks keep the fingerprints that they had before there was a choice
    _forget_unused(written)
    match spec:
        case FactsTask():
            pass
        case ChessTask():
            from w2s.chess.source import chess_identity

            written |= chess_identity(spec, hash_file)
        case FilesTask():
            written |= files_identity(spec, hash_file)
        case HubTask():
            written |= hub_identity(spec, hash_file)
        case CatalogueTask():
            written |= catalogue_identity(spec, hash_file)
        case PythonTask():
            written |= python_identity(spec, hash_file)
    return digest(content)


def _forget_unused(written: dict[str, Any]) -> None:
    """Leaves out what only `generate` has, where it is not used: older tasks keep their fingerprints."""
    if written.get("max_new_tokens") is None:
        written.pop("max_new_tokens", None)
    columns = written.get("columns") or {}
    for name in ("answer", "tags"):
        if not columns.get(name):
            columns.pop(name, None)


JUDGES: dict[str, Callable[[str, str, str], bool | None]] = {}
"""By the name of a source, for `generate`: from prompt, true answer and completion to whether it is acceptable, too."""


def judge_of(spec: TaskSpec) -> Callable[[str, str, str], bool | None] | None:
    """The task's second opinion about completions, if it has one."""
    if isinstance(spec, ChessTask):
        from w2s.chess.judging import accepted

        return accepted
    return JUDGES.get(spec.source)
