"""Tasks from Hugging Face datasets: by id, or a local copy (a folder of data files, or what `save_to_disk` wrote).

Dataset scripts are never run; `datasets` no longer supports them.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from w2s.config import HubTask
from w2s.errors import DataError
from w2s.fingerprints import HashFile
from w2s.hub import how_to_copy, resolve_revision
from w2s.tasks.build import Row, SourceRows
from w2s.tasks.rows import rows_of, wanted_columns
from w2s.tasks.tables import Table, nearest, require_columns

if TYPE_CHECKING:
    from datasets import Dataset


def read_hub(spec: HubTask) -> SourceRows:
    """The rows of a dataset's splits.

    Raises:
        DataError: The dataset, a split, a column or a label cannot be used.
    """
    splits = _load_splits(spec)
    dropped: Counter[str] = Counter()
    pool = _rows(spec, splits, "train", spec.train, dropped)
    test = None if spec.test is None else _rows(spec, splits, "test", spec.test, dropped)
    names = {"train": spec.train, **({"test": spec.test} if spec.test else {})}
    read = {key: len(splits[name]) for key, name in names.items()}
    origin = f"dataset {spec.id}" + (f" at {spec.revision}" if spec.revision else "")
    return SourceRows(pool, test, dropped, read, origin)


def hub_identity(spec: HubTask, hash_file: HashFile) -> dict[str, Any]:
    """What of a dataset determines the examples: its id and commit, or a local copy's files.

    Raises:
        DataError: The folder is missing or empty, or the commit cannot be found out.
    """
    folder = _local_folder(spec)
    if folder is None:
        return {"id": spec.id, "revision": resolve_revision(spec.id, spec.revision)}
    visible = (path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    files = sorted((path.relative_to(folder).as_posix(), hash_file(path)) for path in visible)
    if not files:
        raise DataError(f"{folder}: the folder is empty; a local copy of a dataset is expected there")
    return {"id": files, "revision": None}


def _hidden(path: Path) -> bool:
    # `hf download` leaves its own bookkeeping in .cache, with times in it
    return any(part.startswith(".") for part in path.parts)


def _local_folder(spec: HubTask) -> Path | None:
    """The folder that the id names, if it is one."""
    path = Path(spec.id)
    if path.is_dir():
        return path
    if path.is_absolute() or spec.id.startswith((".", "~")) or spec.id.count("/") > 1:
        raise DataError(f"{spec.id}: no such folder; id is a local copy of a dataset, or a hub id such as nyu-mll/glue")
    return None


def _load_splits(spec: HubTask) -> "dict[str, Dataset]":
    folder = _local_folder(spec)
    if folder is not None and (folder / "dataset_dict.json").is_file():
        return _saved(folder)
    if folder is not None and (folder / "state.json").is_file():
        # One dataset without split names: it is whatever the spec calls its training split.
        return {spec.train: _saved(folder)}
    revision = None if folder else resolve_revision(spec.id, spec.revision)
    cure = "" if folder else f". {how_to_copy(spec.id, 'dataset')}"
    return load_splits(spec.id, spec.config, data_dir=spec.data_dir, revision=revision, cure=cure)


def load_splits(
    id: str, config: str | None, *, data_dir: str | None, revision: str | None, cure: str
) -> "dict[str, Dataset]":
    """Every split of a dataset, by name.

    Args:
        id: A hub id or a folder.
        config: Name of the configuration.
        data_dir: A folder within it.
        revision: The commit; None for a folder.
        cure: What the message ends with if nothing answers.

    Raises:
        DataError: It does not answer, or cannot be read.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        loaded = datasets.load_dataset(id, config, data_dir=data_dir, revision=revision)
    except (DatasetNotFoundError, ConnectionError, TimeoutError) as error:
        raise DataError(f"dataset {id}: cannot be loaded ({error}){cure}") from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise DataError(
            f"dataset {id}: is made by a script, which `datasets` no longer runs; try its converted files, with"
            " revision: refs/convert/parquet, the configuration's name as data_dir, and no config"
        ) from error
    except (DatasetsError, ValueError, OSError) as error:
        raise DataError(f"dataset {id}: cannot be loaded ({error})") from error
    return {str(name): dataset for name, dataset in loaded.items()}  # a DatasetDict, since no split was named


def _saved(folder: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(folder)
    except (ValueError, OSError) as error:
        raise DataError(f"dataset {folder}: cannot be loaded ({error})") from error


def _rows(spec: HubTask, splits: "Mapping[str, Dataset]", key: str, name: str, dropped: Counter[str]) -> list[Row]:
    """The usable rows of one split; most public test splits carry no labels, so that case has a message of its own."""
    if name not in splits:
        known = ", ".join(splits)
        raise DataError(f"dataset {spec.id}: {key}: no split {name!r}{nearest(name, splits)} (splits: {known})")
    wanted = wanted_columns(spec)
    source = f"dataset {spec.id}, split {name}"
    dataset = splits[name]
    require_columns(source, wanted, dataset.column_names)
    if len(dataset) == 0:
        raise DataError(f"{source}: has no rows")
    # to_dict gives plain lists; dataset["column"] is a lazy object since datasets 4
    columns = cast(dict[str, list[Any]], dataset.select_columns(sorted(wanted)).to_dict())
    before = dropped["unlabelled"]
    try:
        return rows_of(spec, [Table(source, columns, range(1, len(dataset) + 1), "row")], dropped)
    except DataError as error:
        if dropped["unlabelled"] - before < len(dataset):
            raise
        others = ", ".join(other for other in splits if other != name) or "none"
        raise DataError(
            f"{source}: no row has a label (all are -1, null or blank), as in many public test splits; name another"
            f" split as {key} (others: {others})"
        ) from error
