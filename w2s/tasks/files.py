"""Tasks from the user's own files."""

from collections import Counter
from pathlib import Path

from w2s.config import FilesTask
from w2s.fingerprints import HashFile
from w2s.tasks.build import Row, SourceRows
from w2s.tasks.rows import rows_of, wanted_columns
from w2s.tasks.tables import file_identity, read_table


def read_files(spec: FilesTask) -> SourceRows:
    """The rows of a task's files.

    Raises:
        DataError: A file, column or label cannot be used.
    """
    wanted = wanted_columns(spec)
    dropped: Counter[str] = Counter()
    read: dict[str, int] = {}
    rows: dict[str, list[Row]] = {}
    for key, files in (("train", spec.train), ("test", spec.test)):
        if files:
            tables = [read_table(Path(file), wanted=wanted, names=spec.names) for file in files]
            read[key] = sum(map(len, tables))
            rows[key] = rows_of(spec, tables, dropped)
    return SourceRows(rows["train"], rows.get("test"), dropped, read, ", ".join((*spec.train, *spec.test)))


def files_identity(spec: FilesTask, hash_file: HashFile) -> dict[str, list[list[str]]]:
    """What of the files determines the examples: kinds and bytes; neither paths nor the order of files."""
    return {
        key: sorted(file_identity(Path(file), hash_file) for file in files)
        for key, files in (("train", spec.train), ("test", spec.test))
    }
