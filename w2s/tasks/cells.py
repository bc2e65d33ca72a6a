"""Cells of published datasets: a label may be 1, "1", 1.0 or "yes", and a list may be its text in a CSV."""

import ast
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from w2s.errors import DataError
from w2s.tasks.base import normalise
from w2s.tasks.catalogue import LeftOut, Record

_TRUTHS = {"1": 1, "true": 1, "yes": 1, "0": 0, "false": 0, "no": 0}
_UNLABELLED = ("", "-1", "none", "null", "nan")


def text(row: Record, column: str) -> str:
    """A text as it is; "" for a missing one.

    Raises:
        DataError: The cell holds no text.
    """
    value = row[column]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    raise DataError(f"{column!r} is a {type(value).__name__}; a text is needed")


def needed(row: Record, column: str, *, otherwise: str = "blank") -> str:
    """A text without white space around it.

    Raises:
        LeftOut: It is blank; `otherwise` is the reason.
    """
    value = text(row, column).strip()
    if not value:
        raise LeftOut(otherwise)
    return value


def label_text(row: Record, column: str) -> str:
    """A label cell as text, lower case.

    Raises:
        LeftOut: It is empty or -1, as in public test splits.
    """
    value = row[column]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    written = "none" if value is None else str(value).strip()
    if written.lower() in _UNLABELLED:
        raise LeftOut("unlabelled")
    return written


def truth(row: Record, column: str) -> int:
    """A label of two classes: 0/1, false/true or no/yes, as any type."""
    value = label_text(row, column).lower().removesuffix(".0")
    if value not in _TRUTHS:
        raise DataError(f"label {row[column]!r} in column {column!r} is none of 0, 1, false, true, no, yes")
    return _TRUTHS[value]


def number(row: Record, column: str, *, below: int, first: int = 0) -> int:
    """A label that counts options from `first`, as a position from 0.

    Raises:
        LeftOut: There is no label.
        DataError: It is no whole number, or counts further than there are options.
    """
    value = label_text(row, column)
    try:
        position = int(value) - first
    except ValueError:
        position = -1
    if not 0 <= position < below:
        raise DataError(f"label {row[column]!r} in column {column!r} is no number from {first} to {first + below - 1}")
    return position


def score(record: Mapping[str, Any], key: str) -> float:
    """A number that may be missing.

    Raises:
        LeftOut: It is missing.
    """
    value = record.get(key)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        raise LeftOut("unlabelled")
    return float(value)


def texts(row: Record, column: str) -> tuple[str, ...]:
    """A list of texts."""
    value = structure(row[column], column)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise DataError(f"{column!r} is a {type(value).__name__}; a list of texts is needed")
    return tuple("" if item is None else str(item) for item in value)


def lettered(row: Record, column: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts and letters of options: lists side by side, as `datasets` gives them, or a list of pairs."""
    value = structure(row[column], column)
    if isinstance(value, Mapping) and {"text", "label"} <= set(value):
        options, letters = value["text"], value["label"]
    elif isinstance(value, Sequence) and all(isinstance(o, Mapping) and {"text", "label"} <= set(o) for o in value):
        options, letters = [o["text"] for o in value], [o["label"] for o in value]
    else:
        raise DataError(f"{column!r} has no lists 'text' and 'label'")
    if len(options) != len(letters):
        raise DataError(f"{column!r} has {len(options)} texts and {len(letters)} letters")
    return tuple("" if o is None else str(o) for o in options), tuple(map(str, letters))


def letter(row: Record, column: str, letters: Sequence[str]) -> int:
    """Where a letter stands among those of the options."""
    value = label_text(row, column)
    if value not in letters:
        raise DataError(f"answer {row[column]!r} in column {column!r} is none of {', '.join(letters)}")
    return letters.index(value)


def record(row: Record, column: str) -> Mapping[str, Any]:
    """A nested record."""
    value = structure(row[column], column)
    if not isinstance(value, Mapping):
        raise DataError(f"{column!r} is a {type(value).__name__}; a record is needed")
    return value


def structure(value: Any, column: str) -> Any:
    """A list or record, read from its text if a CSV or TSV holds it."""
    if not isinstance(value, str):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    raise DataError(
        f"{column!r} should hold a list or record, and its text is neither JSON nor a Python literal; keep such columns"
        " in Parquet or JSONL"
    )


def key(kind: str, value: str) -> str:
    """A group key; texts that differ in case and white space only are equal."""
    return f"{kind}:{normalise(value)}"
