"""Local copies of the catalogue's datasets: folders of Parquet, JSONL, CSV or TSV files in the dataset's own columns.

Copies come from many hands, so folders and files are found by any of the names in use:

    <mirror>/<key>/                 boolq/, anli-r2/ (or anli_r2/)
    <mirror>/<org>/<name>/          google/boolq/, as `hf download` is told to write it
    <mirror>/<name>/, <mirror>/<org>--<name>/
    <mirror>/                       itself, if a spec's `mirror` names the folder of one dataset

and within it, at any depth, below a folder named after the configuration if there is one,

    train.jsonl, train.tsv.gz, train-00000-of-00002.parquet, boolq_train.csv, train/0000.parquet
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from w2s.errors import DataError
from w2s.fingerprints import HashFile
from w2s.tasks.catalogue import Dataset, Layout, Place, datasets
from w2s.tasks.tables import KINDS, Table, file_kind, nearest, read_aligned, read_pieces, require_columns, table_columns

MIRROR_VARIABLE = "W2S_MIRROR"
"""Environment variable that names a folder of mirrored datasets."""

_ALIASES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"[-_.]\d{5}-of-\d{5}([-_.][0-9a-f]{16})?$")
_ENDINGS = tuple(f".{kind}{gz}" for kind in KINDS for gz in ("", ".gz"))


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split: one, or the shards of one, or a text file and its label file."""

    files: tuple[Path, ...]
    aligned: bool = False


def mirrored_folder(entry: Dataset, mirror: Path, *, itself: bool) -> Path | None:
    """The folder of a dataset within a mirror, None if there is none.

    Args:
        entry: The dataset.
        mirror: The folder of folders.
        itself: Whether the mirror may be the dataset's own folder.
    """
    for name in _names(entry):
        if (mirror / name).is_dir():
            return mirror / name
    if not itself:
        return None
    own = {*_names(entry), *entry.subfolders, *(place.data_dir or place.config for place in entry.places)}
    foreign = {name for other in datasets().values() for path in _names(other) for name in path.split("/")} - own
    mine = (path for path in _data_files(mirror) if not foreign.intersection(path.relative_to(mirror).parts[:-1]))
    return mirror if any(mine) or (entry.line_aligned and _aligned(entry, mirror, entry.train[0])) else None


def _names(entry: Dataset) -> list[str]:
    """What the folder of a dataset may be called."""
    names = [entry.key, entry.key.replace("-", "_"), entry.key.replace("_", "-")]
    for place in entry.places:
        organisation, _, name = place.id.partition("/")
        names += [place.id, f"{organisation}--{name}", name]
    return names


def find_mirror(entry: Dataset, mirror: str | None) -> Path | None:
    """The folder of a dataset: in the given mirror, or in that of the environment if it has one; else None.

    Raises:
        DataError: The mirror is no folder, or a given one has no files for the dataset.
    """
    given = mirror or os.environ.get(MIRROR_VARIABLE)
    if not given:
        return None
    root = Path(given).expanduser().absolute()
    if not root.is_dir():
        whose = "mirror" if mirror else MIRROR_VARIABLE
        raise DataError(f"{whose}: there is no folder {root}")
    folder = mirrored_folder(entry, root, itself=mirror is not None)
    if folder is None and mirror:
        inside = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        raise DataError(
            f"mirror {root}: has no folder {entry.key} and no data files{nearest(entry.key, inside)}."
            f" {how_to_mirror(entry, folder=str(root))}"
        )
    return folder


def split_files(entry: Dataset, folder: Path, split: str, *, only: bool = False) -> SplitFiles | None:
    """The files of a split within a dataset's folder; None if there are none.

    Args:
        entry: The dataset.
        folder: Its folder.
        split: Name of the split.
        only: Whether it is the only split that is read, so that a single file is it under any name.

    Raises:
        DataError: Several files could be meant.
    """
    everything = _of_configuration(entry, folder, list(_data_files(folder)))
    for name in _ALIASES.get(split, (split,)):
        found = sorted(path for path in everything if _split_matches(path, folder, name))
        if found:
            return SplitFiles(tuple(_one_version(entry, folder, name, found)))
        if entry.line_aligned and (pair := _aligned(entry, folder, name)):
            return SplitFiles(pair, aligned=True)
    if only and len(everything) == 1:
        return SplitFiles((everything[0],))
    return None


def read_split(entry: Dataset, files: SplitFiles) -> Iterator[Table]:
    """The columns of the dataset that its examples are made of, piece by piece, with those of another layout adapted.

    Raises:
        DataError: A file cannot be read or lacks a column.
    """
    if files.aligned:
        yield read_aligned(*files.files)
    else:
        for path in files.files:
            yield from _read(entry, path)


def mirrored_identity(files: SplitFiles, hash_file: HashFile) -> list[list[str]]:
    """What of the files determines the rows: kinds and bytes, not names."""
    if files.aligned:  # the order says which has the labels
        return [["aligned", hash_file(path)] for path in files.files]
    return sorted([file_kind(path), hash_file(path)] for path in files.files)


def how_to_mirror(entry: Dataset, place: Place | None = None, *, folder: str = "MIRROR") -> str:
    """What to type on a machine that has a connection, and what to name then."""
    use = f"and name {folder} as `mirror` of the task or in {MIRROR_VARIABLE}"
    place = place or entry.place()
    if place is None:
        splits = " and ".join(dict.fromkeys(f"{split}.csv" for split in (*entry.train, entry.test) if split))
        return f"Put {entry.get_it} at {folder}/{entry.key}/{splits}, {use}"
    command = f"hf download {place.id} --repo-type dataset"
    if place.revision:
        command += f" --revision {place.revision}"
    inner = place.data_dir or place.config
    if place.form == "converted" and inner:
        command += f' --include "{inner}/*"'
    command += f" --local-dir {folder}/{place.id}"
    others = [other.id for other in entry.places if other != place]
    also = f" (also published as {', '.join(others)})" if others else ""
    return f"On a machine with a connection run `{command}`{also}, {use}"


def _data_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.name.lower().endswith(_ENDINGS) and path.is_file():
            yield path


def _of_configuration(entry: Dataset, folder: Path, files: list[Path]) -> list[Path]:
    """Those below a folder that is named after the dataset's configuration, if there are such folders."""
    for name in {place.data_dir or place.config for place in entry.places} - {None}:
        inside = [path for path in files if name in path.relative_to(folder).parts[:-1]]
        if inside:
            return inside
    if entry.subfolders:
        return [path for path in files if set(entry.subfolders) & set(path.relative_to(folder).parts[:-1])] or files
    return files


def _stem(path: Path) -> str:
    name = path.name.lower()
    ending = max((ending for ending in _ENDINGS if name.endswith(ending)), key=len)
    return _SHARD.sub("", name.removesuffix(ending))


def _split_matches(path: Path, folder: Path, split: str) -> bool:
    stem = _stem(path)
    if stem == split or stem.endswith((f"_{split}", f"-{split}", f".{split}")):
        return True
    return path.parent != folder and path.parent.name.lower() == split  # train/0000.parquet, as converted branches have


def _one_version(entry: Dataset, folder: Path, split: str, files: list[Path]) -> list[Path]:
    """All files, if they are shards of one split."""
    alike = {(path.parent, file_kind(path), "" if _stem(path).isdigit() else _stem(path)) for path in files}
    numbered = all(_stem(path).isdigit() or _SHARD.search(path.name.partition(".")[0]) for path in files)
    apart = entry.subfolders and len({path.parent for path in files}) == len(files)
    if len(files) == 1 or apart or (len(alike) == 1 and numbered):
        return files
    names = ", ".join(str(path.relative_to(folder)) for path in files[:4]) + (", ..." if len(files) > 4 else "")
    raise DataError(f"{folder}: several files could be split {split} of {entry.key}: {names}; keep one of them")


def _aligned(entry: Dataset, folder: Path, split: str) -> tuple[Path, Path] | None:
    texts = [p for ending in (".txt", ".txt.gz") for p in folder.rglob(f"{split}_text{ending}")]
    inner = {place.config for place in entry.places}
    texts = [p for p in texts if inner & set(p.parts)] or texts
    for path in sorted(texts):
        labels = path.with_name(path.name.replace("_text.", "_labels."))
        if labels.is_file():
            return path, labels
    return None


def _read(entry: Dataset, path: Path) -> Iterator[Table]:
    names = None
    if entry.headerless and file_kind(path) in ("csv", "tsv") and not set(entry.columns) <= set(table_columns(path)):
        names = entry.headerless
    present = set(names or table_columns(path))
    for layout in entry.layouts:
        if not set(entry.columns) <= present and set(layout.columns) <= present:
            yield from (_adapted(entry, layout, table) for table in read_pieces(path, wanted=layout.columns))
            return
    require_columns(str(path), entry.columns, present)
    optional = {"group_id"} & present
    yield from read_pieces(path, wanted={*entry.columns, *optional}, names=names)


def _adapted(entry: Dataset, layout: Layout, table: Table) -> Table:
    cells = [{name: column[i] for name, column in table.columns.items()} for i in range(len(table))]
    rows = [layout.adapt(row) for row in cells]
    columns = {name: [row.get(name) for row in rows] for name in entry.columns}
    return Table(table.source, columns, table.numbers, table.unit)
