"""From a table's cells to rows of a task: which column is what, templates, labels, prompts."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import Any

from w2s.config import RowFormat
from w2s.errors import DataError
from w2s.tasks.base import left_out
from w2s.tasks.build import Row
from w2s.tasks.tables import Table, nearest, text_of

_PLAIN_LABELS = {"0": 0, "1": 1, "false": 0, "true": 1}
_UNLABELLED = ("", "-1", "null")
"""How sources mark rows without a label, as most public test splits do; unless `label_values` gives them a meaning."""


def wanted_columns(spec: RowFormat) -> set[str]:
    """The columns of the source that the examples are made of.

    Raises:
        DataError: The template cannot be read.
    """
    if spec.form == "classify":
        text = {name for _, name in parse_template(spec.template) if name} if spec.template else {_text_column(spec)}
        columns = text | {_label_column(spec)}
    elif spec.form == "generate":
        prompt = (
            {name for _, name in parse_template(spec.template) if name} if spec.template else {_prompt_column(spec)}
        )
        columns = prompt | {spec.columns.answer or "answer", *spec.columns.tags}
    else:
        columns = {spec.columns.chosen or "chosen", spec.columns.rejected or "rejected"}
        if spec.columns.prompt:
            columns.add(spec.columns.prompt)
    return columns | set(spec.columns.group)


def rows_of(spec: RowFormat, tables: Sequence[Table], dropped: Counter[str]) -> list[Row]:
    """The usable rows of some tables that together make up one split of the source.

    Args:
        spec: How cells become rows.
        tables: Hold at least the `wanted_columns`.
        dropped: Counts rows left out are added to: `unlabelled`, `blank`, `prompts_differ`, `no_prompt_separator`,
            `same_replies`, `several_lines`.

    Raises:
        DataError: A cell that cannot be used, a label column without exactly two values, or no usable row.
    """
    if spec.form == "classify":
        labels = _read_labels(spec, tables, dropped)
        text = _text_maker(spec)
        rows = [Row(text=text(table, i), label=label, groups=_groups(spec, table, i)) for table, i, label in labels]
        usable = [row for row in rows if row.text.strip()]
        dropped["blank"] += len(rows) - len(usable)
    elif spec.form == "generate":
        prompt = _text_maker(spec)
        made = [_question(spec, prompt, table, i, dropped) for table in tables for i in range(len(table))]
        usable = [row for row in made if row is not None]
    else:
        usable = [row for table in tables for i in range(len(table)) if (row := _pair(spec, table, i, dropped))]
    if not usable:
        raise DataError(f"{_sources(tables)}: no usable row; left out: {left_out(dropped)}")
    return usable


def parse_template(template: str) -> list[tuple[str, str | None]]:
    """Pieces of a template: literal text, and the column that follows it (None at the end).

    Raises:
        DataError: Anything but plain {column} fields; a literal brace is written {{ or }}.
    """
    try:
        pieces = [(literal, name, form, conversion) for literal, name, form, conversion in Formatter().parse(template)]
    except ValueError as error:
        raise DataError(
            f"template {template!r}: {error}; write columns as {{column}} and a brace as {{{{ or }}}}"
        ) from error
    for _, name, form, conversion in pieces:
        if name == "" or form or conversion:
            raise DataError(f"template {template!r}: only plain {{column}} fields are possible")
    if all(name is None for _, name, _, _ in pieces):
        raise DataError(f"template {template!r}: names no column; write columns as {{column}}")
    return [(literal, name) for literal, name, _, _ in pieces]


def _text_column(spec: RowFormat) -> str:
    return spec.columns.text or "text"


def _prompt_column(spec: RowFormat) -> str:
    return spec.columns.prompt or "prompt"


def _label_column(spec: RowFormat) -> str:
    return spec.columns.label or "label"


def _sources(tables: Sequence[Table]) -> str:
    return ", ".join(table.source for table in tables)


def _text_maker(spec: RowFormat) -> Callable[[Table, int], str]:
    if spec.template is None:
        column = _prompt_column(spec) if spec.form == "generate" else _text_column(spec)
        return lambda table, i: text_of(table, column, i)
    pieces = parse_template(spec.template)
    return lambda table, i: "".join(literal + (text_of(table, name, i) if name else "") for literal, name in pieces)


def _groups(spec: RowFormat, table: Table, i: int) -> tuple[str, ...]:
    """Equal values of a group column tie rows; blank cells tie none. Values are compared as text, so that 7 and "7"
    tie."""
    values = ((place, table.columns[name][i]) for place, name in enumerate(spec.columns.group))
    return tuple(
        f"group{place}:{str(value).strip()}" for place, value in values if value is not None and str(value).strip()
    )


def _read_labels(spec: RowFormat, tables: Sequence[Table], dropped: Counter[str]) -> list[tuple[Table, int, int]]:
    """(table, row, label) of every labelled row."""
    column = _label_column(spec)
    meaning: Mapping[str, int] = spec.label_values or _PLAIN_LABELS
    labelled = []
    unlabelled = 0
    values: dict[str, tuple[Table, int]] = {}
    counts: Counter[str] = Counter()
    for table in tables:
        for i, value in enumerate(table.columns[column]):
            key = _label_key(value, plain=spec.label_values is None)
            if key not in meaning and key in _UNLABELLED:
                unlabelled += 1
                continue
            values.setdefault(key, (table, i))
            counts[key] += 1
            labelled.append((table, i, meaning.get(key, -1)))
    dropped["unlabelled"] += unlabelled
    _check_labels(spec, tables, values, counts, unlabelled)
    return labelled


def _label_key(value: Any, *, plain: bool) -> str:
    """A label cell as text; without a map, 1, 1.0, true and "True" are one thing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if isinstance(value, bool) or plain:
        text = text.lower()
    return text.removesuffix(".0") if plain else text


def _check_labels(
    spec: RowFormat,
    tables: Sequence[Table],
    values: Mapping[str, tuple[Table, int]],
    counts: Mapping[str, int],
    unlabelled: int,
) -> None:
    column = _label_column(spec)
    shown = ", ".join(map(repr, sorted(values)[:10])) + (", ..." if len(values) > 10 else "")
    if spec.label_values is not None:
        for value, (table, i) in values.items():
            if value not in spec.label_values:
                known = ", ".join(map(repr, spec.label_values))
                raise DataError(
                    f"{table.where(i)}: label {value!r} (column {column!r}) is not in label_values"
                    f"{nearest(value, spec.label_values)} (they are: {known})"
                )
    elif len(values) > 2:
        rarest = min(list(values)[::-1], key=lambda value: counts[value])  # of equally rare ones, the last to appear
        table, i = values[rarest]
        raise DataError(
            f"{_sources(tables)}: label column {column!r} has {len(values)} values ({shown}); a task has two classes."
            f" The rarest, {rarest!r}, is in {counts[rarest]:,} of {sum(counts.values()):,} rows, first in"
            f" {table.where(i)}"
        )
    meaning: Mapping[str, int] = spec.label_values or _PLAIN_LABELS
    if not set(values) <= set(meaning):
        hint = f"{{{', '.join(f'{value!r}: {i}' for i, value in enumerate(sorted(values)))}}}"
        raise DataError(
            f"{_sources(tables)}: label column {column!r} holds {shown}, neither 0/1 nor false/true; say what its"
            f" values mean, e.g. label_values: {hint}"
        )
    if values and len({meaning[value] for value in values}) == 1:
        doubt = f"; {unlabelled} rows with -1, null or blank count as unlabelled unless label_values has them"
        raise DataError(
            f"{_sources(tables)}: every label in column {column!r} is {shown}, and a task needs both classes"
            + (doubt if unlabelled else "")
        )


def _question(
    spec: RowFormat, prompt_of: Callable[[Table, int], str], table: Table, i: int, dropped: Counter[str]
) -> Row | None:
    """A prompt and its answer. Models stop at the end of a line, so an answer is one line."""
    if table.columns[spec.columns.answer or "answer"][i] is None:
        dropped["unlabelled"] += 1
        return None
    # A space in front stays: to most tokenizers it belongs to the first word.
    prompt, answer = prompt_of(table, i), text_of(table, spec.columns.answer or "answer", i).rstrip().lstrip("\r\n")
    if not prompt.strip() or not answer.strip():
        dropped["blank"] += 1
        return None
    if "\n" in answer:
        dropped["several_lines"] += 1
        return None
    return Row(prompt=prompt, answer=answer, tags=_tags(spec, table, i), groups=_groups(spec, table, i))


def _tags(spec: RowFormat, table: Table, i: int) -> tuple[str, ...]:
    """ "column:value" of every value in the columns of tags; null and blank ones are left out."""
    cells = ((name, table.columns[name][i]) for name in spec.columns.tags)
    values = ((name, value) for name, cell in cells for value in (cell if isinstance(cell, list) else [cell]))
    shown = (f"{name}:{str(value).strip()}" for name, value in values if value is not None and str(value).strip())
    return tuple(dict.fromkeys(shown))


def _pair(spec: RowFormat, table: Table, i: int, dropped: Counter[str]) -> Row | None:
    chosen, rejected = (
        text_of(table, name, i) for name in (spec.columns.chosen or "chosen", spec.columns.rejected or "rejected")
    )
    prompt = text_of(table, spec.columns.prompt, i) if spec.columns.prompt else ""
    if spec.prompt_separator is not None:
        (prompt, separator, chosen), (other, other_separator, rejected) = (
            text.rpartition(spec.prompt_separator) for text in (chosen, rejected)
        )
        if not separator or not other_separator:
            dropped["no_prompt_separator"] += 1
            return None
        if prompt != other:
            dropped["prompts_differ"] += 1
            return None
        prompt += separator
    if not chosen.strip() or not rejected.strip():
        dropped["blank"] += 1
        return None
    if chosen == rejected:
        dropped["same_replies"] += 1
        return None
    return Row(prompt=prompt, chosen=chosen, rejected=rejected, groups=_groups(spec, table, i))
