"""Tasks from the user's own files."""

from collections import Counter
from pathlib import Path

from w2s.config import FilesTask
from w2s.fingerprints import HashFile
from w2s.tasks.base import TaskData
from w2s.tasks.build import build_task
from w2s.tasks.rows import rows_of, wanted_columns
from w2s.tasks.tables import file_identity, read_table


def load_files(spec: FilesTask) -> TaskData:
    """Read the files of a task and split their rows.

    Raises:
        DataError: A file, column, label or size cannot be used.
    """
    wanted = wanted_columns(spec)
    dropped: Counter[str] = Counter()
    pool, test = (
        rows_of(spec, [read_table(Path(file), wanted=wanted, names=spec.names) for file in files], dropped)
        if files
        else None
        for files in (spec.train, spec.test)
    )
    return build_task(spec.form, pool or [], test, spec.splits, dropped)


def files_identity(spec: FilesTask, hash_file: HashFile) -> dict[str, list[list[str]]]:
    """What of the files determines the examples: kinds and bytes; neither paths nor the order of files."""
    return {
        key: sorted(file_identity(Path(file), hash_file) for file in files)
        for key, files in (("train", spec.train), ("test", spec.test))
    }
