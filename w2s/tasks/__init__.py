"""Tasks: from a spec to binary examples in fixed parts.

`load_task` is the way in; `SOURCES` says what there is. A new source is one module and one entry here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from w2s.config import FactsTask, FilesTask, Form, TaskSpec
from w2s.fingerprints import HashFile, digest, hash_file
from w2s.tasks.base import TaskData, TaskSummary, summarise
from w2s.tasks.facts import load_facts
from w2s.tasks.files import files_identity, load_files
from w2s.tasks.hub import hub_identity, load_hub

__all__ = [
    "JUDGES",
    "SOURCES",
    "Source",
    "TaskData",
    "TaskSummary",
    "judge_of",
    "load_task",
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
    )
}


def load_task(spec: TaskSpec) -> TaskData:
    """Load a task's examples and put each in its part. The same spec and content give the same frame on every machine.

    Raises:
        DataError: The source cannot be read or used; the message names file, column and value.
    """
    match spec:
        case FactsTask():
            return load_facts(spec)
        case FilesTask():
            return load_files(spec)
        case _:
            return load_hub(spec)


def task_fingerprint(spec: TaskSpec, *, hash_file: HashFile = hash_file) -> str:
    """Hash of everything that determines a task's examples and parts; no row is read.

    It covers the spec but for the task's name and prompt, the bytes of the files but not where they lie, a dataset's
    commit, and the version of this loader.

    Args:
        spec: The task.
        hash_file: Content hash of a file; a caller may hand in one that remembers.

    Raises:
        DataError: A file is missing, or a dataset's commit cannot be found out.
    """
    content: dict[str, Any] = {
        "spec": spec.model_dump(mode="json", exclude={"name", "prompt"}),
        "loader": LOADER_VERSION,
    }
    _forget_unused(content["spec"])
    match spec:
        case FactsTask():
            pass
        case FilesTask():
            content["spec"] |= files_identity(spec, hash_file)
        case _:
            content["spec"] |= hub_identity(spec, hash_file)
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
    return JUDGES.get(spec.source)
