"""From rows of any source to the examples of a task: ids, duplicates, groups, parts, and which reply is shown first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from w2s.config import Balance, Form, SplitSpec
from w2s.errors import DataError
from w2s.tasks.base import CONTENT_COLUMNS, TaskData, left_out, normalise, pair_id, seeded_hash, text_id
from w2s.tasks.splits import cap, deal, group_rows, part_sizes


@dataclass(frozen=True)
class Row:
    """One usable row of a source. `classify` fills `text` and `label`; `compare` the other three."""

    text: str = ""
    label: int = 0
    prompt: str = ""
    chosen: str = ""
    rejected: str = ""
    groups: tuple[str, ...] = ()
    """Keys that tie this row to others, beside its texts."""


@dataclass(frozen=True)
class SourceRows:
    """What a source gave, before anything is put into parts."""

    pool: list[Row]
    test: list[Row] | None
    """Rows of the source's own test split, if it has one."""
    dropped: Counter[str]
    """Rows left out while reading, by reason."""
    read: Mapping[str, int]
    """Rows of the source, by split: "train" and "test"."""
    origin: str
    """Where they come from, for people."""


LARGER_CLASS_MAY_BE = 0.55
"""Share above which `balance: paper` takes rows from the larger class (Burns et al. 2023, appendix A)."""


def build_task(
    form: Form,
    pool: list[Row],
    test: list[Row] | None,
    splits: SplitSpec,
    dropped: Counter[str],
    *,
    balance: Balance = "never",
) -> TaskData:
    """Put rows into parts.

    Args:
        form: What the rows are.
        pool: Rows to be split.
        test: Rows of the source's own test split, if it has one. Pool rows in a group with any of them are dropped,
            also when a cap keeps only some of the test.
        splits: Sizes and seed.
        dropped: Rows already left out while reading, by reason.
        balance: Whether rows of the larger class are left out. What is to be split is balanced before it is dealt, and
            each part once more afterwards, since groups are dealt whole: a part then has at most the size asked for,
            and as many rows of one class as of the other. Which rows, a hash of split_seed and id says. Pairs have no
            classes: which reply is shown first is a coin.

    Raises:
        DataError: One-class data, or sizes that cannot be met.
    """
    rows = pool + (test or [])
    is_test = np.arange(len(rows)) >= len(pool)
    ids = np.array([row_id(form, row) for row in rows])
    groups = group_rows([row_keys(form, row) for row in rows])
    verdicts = [row.label if form == "classify" else int(row.chosen > row.rejected) for row in rows]
    dropped = Counter(dropped)

    touching = ~is_test & np.isin(groups, groups[is_test])
    dropped["related_to_test"] += int(touching.sum())
    # A row that touches the test has left the pool, so equal ids are now all in the pool or all in the test.
    first: dict[str, int] = {}
    seen: dict[str, set[int]] = {}
    for i in np.flatnonzero(~touching).tolist():
        first.setdefault(ids[i], i)
        seen.setdefault(ids[i], set()).add(verdicts[i])
    contradicting = {example_id for example_id, labels in seen.items() if len(labels) > 1}
    copies = Counter(ids[~touching].tolist())
    dropped["contradicting_labels"] += sum(copies[example_id] for example_id in contradicting)
    dropped["duplicates"] += sum(n - 1 for example_id, n in copies.items() if example_id not in contradicting)

    kept = np.array([i for example_id, i in first.items() if example_id not in contradicting], dtype=np.int64)
    in_pool, in_test = kept[~is_test[kept]], kept[is_test[kept]]
    if not len(in_pool):
        raise DataError(_nothing_left(len(pool), dropped))
    even_test = form == "classify" and balance != "never"
    even_pool = even_test and (balance == "always" or _majority(verdicts, in_pool) > LARGER_CLASS_MAY_BE)
    if even_pool:
        in_pool, out = _evened(in_pool, ids, verdicts, splits.split_seed)
        dropped["unbalanced"] += out
    if even_test:
        in_test, out = _evened(in_test, ids, verdicts, splits.split_seed)
        dropped["unbalanced"] += out
    if not len(in_pool) or (test and not len(in_test)):
        raise DataError(
            f"all rows {'for the test' if len(in_pool) else 'to train on'} that can be used have one label, so none is"
            " left when they are balanced: bring rows of both, or say balance: never"
        )
    try:
        sizes = part_sizes(len(in_pool), splits, official_test=test is not None)
        pool_parts = deal(
            ids[in_pool].tolist(),
            groups[in_pool],
            sizes,
            splits.split_seed,
            tied_by=lambda members: _tied_by(form, [rows[in_pool[i]] for i in members]),
        )
    except DataError as error:
        without = left_out(dropped)
        raise DataError(f"{error}" + (f". Rows left out before: {without}" if without else "")) from None
    parts: dict[int, str | None] = dict(zip(in_pool.tolist(), pool_parts, strict=True))
    for part in sorted({part for part in parts.values() if part is not None}):
        if even_pool or (even_test and part == "test"):
            members = np.array([i for i, of in parts.items() if of == part], dtype=np.int64)
            kept, out = _evened(members, ids, verdicts, splits.split_seed)
            parts = {i: of for i, of in parts.items() if of != part} | dict.fromkeys(kept.tolist(), part)
            dropped["unbalanced"] += out
    test_ids = ids[in_test].tolist()
    if not isinstance(splits.test, int) or test is None:
        chosen = set(test_ids)
    elif even_test:
        by_class = ([str(ids[i]) for i in in_test.tolist() if verdicts[i] == label] for label in (0, 1))
        chosen = {i for those in by_class for i in cap(those, splits.test // 2, splits.split_seed)}
    else:
        chosen = cap(test_ids, splits.test, splits.split_seed)
    parts |= {i: "test" if ids[i] in chosen else None for i in in_test.tolist()}
    dropped["not_needed"] += sum(part is None for part in parts.values())

    frame = _frame(
        form, [(str(ids[i]), part, rows[i]) for i, part in parts.items() if part is not None], splits.split_seed
    )
    _check_classes(form, frame)
    return TaskData(form, frame, {reason: n for reason, n in sorted(dropped.items()) if n})


def _majority(verdicts: Sequence[int], rows: np.ndarray) -> float:
    """Share of the larger class."""
    share = float(np.mean([verdicts[i] for i in rows.tolist()]))
    return max(share, 1 - share)


def _evened(rows: np.ndarray, ids: np.ndarray, verdicts: Sequence[int], split_seed: int) -> tuple[np.ndarray, int]:
    """As many rows of one class as of the other, in their order, and how many are left out."""
    of_class = [[i for i in rows.tolist() if verdicts[i] == label] for label in (0, 1)]
    smaller, larger = sorted(of_class, key=len)
    kept = {*smaller, *sorted(larger, key=lambda i: seeded_hash(split_seed, "balance", str(ids[i])))[: len(smaller)]}
    return np.array([i for i in rows.tolist() if i in kept], dtype=np.int64), len(rows) - len(kept)


def row_id(form: Form, row: Row) -> str:
    """The id of the example that a row becomes."""
    return text_id(row.text) if form == "classify" else pair_id(row.prompt, row.chosen, row.rejected)


def row_keys(form: Form, row: Row) -> set[str]:
    """What ties a row to others: its normalised texts and its group keys, each as "kind:value"."""
    texts = {f"text:{normalise(row.text)}"}
    if form == "compare":
        texts = {f"reply:{normalise(row.chosen)}", f"reply:{normalise(row.rejected)}"}
        if prompt := normalise(row.prompt):
            texts.add(f"prompt:{prompt}")
    return texts.union(row.groups)


def _nothing_left(pool: int, dropped: Counter[str]) -> str:
    if dropped["related_to_test"] == pool:
        return (
            f"all {pool:,} rows to train on are related to the test (the same text, prompt, reply or group), so none is"
            " left to train on: give other files for the test, or leave it out, and it is split off"
        )
    return f"no row is left to train on; left out: {left_out(dropped)}"


def _tied_by(form: Form, rows: list[Row]) -> str:
    """What most rows of a group have in common, and what can be done about it."""
    count = Counter(key for row in rows for key in row_keys(form, row))
    key, n = min(count.items(), key=lambda item: (-item[1], item[0]))
    kind, _, value = key.partition(":")
    shown = repr(value if len(value) <= 60 else f"{value[:57]}...")
    if kind.startswith("group"):
        what, cure = f"the value {shown} in a column of columns.group", "group by a column with more values"
    else:
        what, cure = f"the {kind} {shown}", f"bring rows with more different {kind}s"
        if kind == "reply":
            cure = "bring rows with more different replies"
    share = f"all share {what}" if n == len(rows) else f"tied one to the next; {n} share {what}"
    return f" ({share}). Ask for smaller parts, or {cure}"


def _frame(form: Form, examples: list[tuple[str, str, Row]], split_seed: int) -> pl.DataFrame:
    content = [
        {"text": row.text} if form == "classify" else _shown(example_id, row, split_seed)
        for example_id, _, row in examples
    ]
    labels = [
        row.label if form == "classify" else int(shown["second"] == row.chosen)
        for (_, _, row), shown in zip(examples, content, strict=True)
    ]
    columns = {
        "example_id": pl.Series([example_id for example_id, _, _ in examples], dtype=pl.String),
        "part": pl.Series([part for _, part, _ in examples], dtype=pl.String),
        "label": pl.Series(labels, dtype=pl.Int8),
    }
    columns |= {name: pl.Series([shown[name] for shown in content], dtype=pl.String) for name in CONTENT_COLUMNS[form]}
    return pl.DataFrame(columns).sort("part", "example_id")


def _shown(example_id: str, row: Row, split_seed: int) -> dict[str, str]:
    """The pair in the order in which it is shown: a coin per example, so that labels are balanced."""
    first, second = row.chosen, row.rejected
    if seeded_hash(split_seed, "slot", example_id) % 2:
        first, second = second, first
    return {"prompt": row.prompt, "first": first, "second": second}


def _check_classes(form: Form, frame: pl.DataFrame) -> None:
    """Training and test parts need both classes; a pair's label is a coin, so only `classify` can lack one for good."""
    if form == "compare":
        return
    one_class = (
        frame.filter(pl.col("part") != "validation")
        .group_by("part")
        .agg(pl.col("label").first(), n=pl.len(), classes=pl.col("label").n_unique())
        .filter(pl.col("classes") == 1)
        .sort("part")
    )
    for part, label, n, _ in one_class.iter_rows():
        raise DataError(
            f"part {part} has {n} examples, all with label {label}: it needs both classes, so make it larger"
        )
