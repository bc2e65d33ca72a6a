"""Tasks of the catalogue: from a dataset's name to rows, read from a mirror or from the hub."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from w2s.config import CatalogueTask
from w2s.errors import DataError
from w2s.fingerprints import HashFile, digest
from w2s.hub import how_to_copy, resolve_revision
from w2s.tasks.base import left_out, seeded_hash
from w2s.tasks.build import Row, SourceRows
from w2s.tasks.catalogue import CATALOGUE_VERSION, Dataset, LeftOut, Place, find_dataset, unknown_dataset
from w2s.tasks.choices import rows_from
from w2s.tasks.hub import load_splits
from w2s.tasks.mirror import SplitFiles, find_mirror, how_to_mirror, mirrored_identity, read_split, split_files
from w2s.tasks.tables import PIECE, Table, nearest, require_columns

Resolve = Callable[[str, str | None], str | None]
"""From a hub id and a revision to a commit."""


def entry_of(spec: CatalogueTask) -> Dataset:
    """The catalogue's entry of a task."""
    entry = find_dataset(spec.dataset)
    if entry is None:
        raise DataError(unknown_dataset(spec.dataset))
    return entry


def is_expanded(spec: CatalogueTask) -> bool:
    """Whether each of its questions becomes a right and a wrong row."""
    return spec.choices == "expand" and entry_of(spec).kind == "choice"


def placed(spec: CatalogueTask, resolve: Resolve = resolve_revision) -> CatalogueTask:
    """The task with the place that it is read from: a folder that holds the dataset, or a hub id and a commit.

    Raises:
        DataError: There is neither; says how to make a mirror.
    """
    entry = entry_of(spec)
    if spec.id is None and spec.revision is None and (folder := find_mirror(entry, spec.mirror)) is not None:
        return spec.model_copy(update={"mirror": str(folder)})
    place = entry.place(spec.id)
    if place is None:
        raise DataError(f"dataset {entry.key}: is on no hub. {how_to_mirror(entry)}")
    try:
        commit = resolve(place.id, spec.revision or place.revision)
    except DataError as error:
        cause = str(error).replace(f". {how_to_copy(place.id, 'dataset')}", "").replace("no such folder here, and ", "")
        raise DataError(f"{cause}. {how_to_mirror(entry, place)}") from error
    return spec.model_copy(update={"id": place.id, "revision": commit})


def read_catalogue(spec: CatalogueTask) -> SourceRows:
    """The rows of a dataset of the catalogue.

    Raises:
        DataError: The dataset does not answer, or lacks a split or column, or a cell of it cannot be used.
    """
    spec, entry = placed(spec), entry_of(spec)
    dropped: Counter[str] = Counter()
    train, test, origin = _from_mirror(spec, entry) if spec.mirror else _from_hub(spec, entry)
    pool = _chosen(spec, train)
    pool_rows, read = _rows(spec, entry, pool, dropped), {"train": pool.total}
    if test is None:
        return SourceRows(pool_rows, None, dropped, read, origin)
    tested = _chosen(spec, test)
    read["test"] = tested.total
    if spec.test is None and entry.not_test is not None and tested.total == entry.not_test[0]:
        raise DataError(f"{tested.source}: is not the split to test on: {entry.not_test[1]}")
    return SourceRows(pool_rows, _rows(spec, entry, tested, dropped), dropped, read, origin)


def catalogue_identity(spec: CatalogueTask, hash_file: HashFile) -> dict[str, Any]:
    """What of a dataset determines the examples: bytes of the mirrored files, or id and commit; and this code."""
    spec, entry = placed(spec), entry_of(spec)
    identity: dict[str, Any] = {"mirror": None, "id": None, "revision": None}
    identity |= {"catalogue": [CATALOGUE_VERSION, entry.version]}
    if spec.mirror is None:
        place = _place(spec, entry)
        return identity | {"id": [place.id, place.config, place.data_dir], "revision": spec.revision}
    train, test, _ = _mirrored(spec, entry)
    files = {"train": sorted(item for split in train for item in mirrored_identity(split, hash_file))}
    return identity | {"mirror": files | ({"test": mirrored_identity(test, hash_file)} if test else {})}


def _split_names(spec: CatalogueTask, entry: Dataset) -> tuple[tuple[str, ...], str | None, str | None]:
    """Splits to train on, the split to test on, and what that is called where there is none of this name."""
    train = spec.train or entry.train
    if spec.test is not None:
        return train, None if spec.test == "none" else spec.test, None
    return train, entry.test, entry.test_otherwise


def _place(spec: CatalogueTask, entry: Dataset) -> Place:
    place = entry.place(spec.id)
    assert place is not None, "placed() has seen to it"
    return place


def _mirrored(spec: CatalogueTask, entry: Dataset) -> tuple[list[SplitFiles], SplitFiles | None, str]:
    folder = Path(spec.mirror or "")
    train_names, test_name, otherwise = _split_names(spec, entry)
    only = test_name is None and len(train_names) == 1
    train = [_split(entry, folder, split, only=only) for split in train_names]
    test = None if test_name is None else split_files(entry, folder, test_name)
    if test is None and otherwise is not None:
        test = split_files(entry, folder, otherwise)
    if test is None and test_name is not None:
        test = _split(entry, folder, test_name)
    return train, test, f"mirror {folder}"


def _split(entry: Dataset, folder: Path, split: str, *, only: bool = False) -> SplitFiles:
    found = split_files(entry, folder, split, only=only)
    if found is None:
        there = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")[:8]
        raise DataError(
            f"{folder}: no file for split {split} of {entry.key}, such as {split}.jsonl, {split}.csv.gz or"
            f" {split}-00000-of-00001.parquet (there: {', '.join(there) or 'nothing'}). {how_to_mirror(entry)}"
        )
    return found


def _from_mirror(spec: CatalogueTask, entry: Dataset) -> tuple[Iterator[Table], Iterator[Table] | None, str]:
    train, test, origin = _mirrored(spec, entry)
    pieces = (table for files in train for table in read_split(entry, files))
    return pieces, None if test is None else read_split(entry, test), origin


def _from_hub(spec: CatalogueTask, entry: Dataset) -> tuple[Iterator[Table], Iterator[Table] | None, str]:
    place = _place(spec, entry)
    cure = f". {how_to_mirror(entry, place)}"
    # A converted branch has no README, hence no named configurations: a folder is named instead.
    splits = load_splits(place.id, place.config, data_dir=place.data_dir, revision=spec.revision, cure=cure)
    train, test, otherwise = _split_names(spec, entry)
    if spec.test is None:
        test = place.test or test
    if test and test not in splits and otherwise in splits:
        test = otherwise
    for name in [*train, *([test] if test else [])]:
        source = f"dataset {place.id}, split {name}"
        if name not in splits:
            raise DataError(f"{source}: there is none{nearest(name, splits)} (splits: {', '.join(splits)})")
        require_columns(source, entry.columns, splits[name].column_names)

    def pieces(names: Sequence[str]) -> Iterator[Table]:
        for name in names:
            wanted = sorted({*entry.columns} | ({"group_id"} & set(splits[name].column_names)))
            source, before = f"dataset {place.id}, split {name}", 0
            if not len(splits[name]):
                yield Table(source, {column: [] for column in wanted}, [], "row")
            for batch in splits[name].select_columns(wanted).iter(batch_size=PIECE):
                columns = cast(dict[str, list[Any]], batch)
                numbers = range(before + 1, before + 1 + len(columns[wanted[0]]))
                before += len(numbers)
                yield Table(source, columns, numbers, "row")

    return pieces(train), pieces([test]) if test else None, f"hub {place.id} at {spec.revision}"


@dataclass(frozen=True)
class _Chosen:
    """The rows of a split that are used, and where each stands."""

    rows: Sequence[tuple[Mapping[str, Any], str]]
    total: int
    """Rows that the split has."""
    source: str


def _rows(spec: CatalogueTask, entry: Dataset, chosen: _Chosen, dropped: Counter[str]) -> list[Row]:
    """Rows of a task from those of one split."""
    dropped["beyond_max_rows"] += chosen.total - len(chosen.rows)
    before = dropped.copy()
    rows: list[Row] = []
    for row, where in chosen.rows:
        try:
            converted = entry.convert(row)
            rows += rows_from(converted, choices=spec.choices, seed=spec.splits.split_seed, dataset=entry.key)
        except LeftOut as out:
            dropped[out.reason] += 1
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
    if not rows:
        without = left_out(dropped - before) or "none: it is empty"
        raise DataError(f"{chosen.source}: no usable row; left out: {without}")
    return rows


def _chosen(spec: CatalogueTask, tables: Iterable[Table]) -> _Chosen:
    """All rows, or the `max_rows` whose content has the smallest hashes; not many more are ever in memory."""
    most, total, sources = spec.max_rows, 0, []
    kept: list[tuple[int, int, Mapping[str, Any], str]] = []  # hash, once there are too many; position; row; where
    worst: int | None = None
    for table in tables:
        sources.append(table.source)
        names = sorted(table.columns)
        for i in range(len(table)):
            row = {name: table.columns[name][i] for name in names}
            rank = 0 if worst is None else _rank(spec, row)
            if worst is None or rank <= worst:
                kept.append((rank, total, row, table.where(i)))
            total += 1
        if most is not None and total > most and (worst is None or len(kept) > most + PIECE):
            if worst is None:
                kept = [(_rank(spec, row), n, row, where) for _, n, row, where in kept]
            kept = sorted(kept, key=lambda item: item[:2])[:most]
            worst = kept[-1][0]
    if most is not None and worst is not None:
        kept = sorted(kept, key=lambda item: item[:2])[:most]
    source = ", ".join(dict.fromkeys(sources))
    return _Chosen([(row, where) for _, _, row, where in kept], total, source)


def _rank(spec: CatalogueTask, row: Mapping[str, Any]) -> int:
    return seeded_hash(spec.splits.split_seed, "rows", digest([_plain(row[name]) for name in sorted(row)]))


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | list | dict) else str(value)
