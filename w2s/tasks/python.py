"""Tasks that the user writes in Python: a function that returns rows.

    def my_task(files=(), **params):
        return {"train": rows, "test": rows}      # without "test", one is split off

A row is a mapping {"text": ..., "label": 0 or 1}, {"prompt": ..., "chosen": ..., "rejected": ...} or
{"before": ..., "options": [...], "right": 0}, with "groups" where rows belong together, or one of the classes
`Statement`, `Pair` and `Question` of `w2s.tasks`.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from w2s.config import PythonTask
from w2s.errors import DataError
from w2s.fingerprints import HashFile, hash_file
from w2s.tasks.base import left_out
from w2s.tasks.build import Row, SourceRows
from w2s.tasks.catalogue import Converted, LeftOut, Pair, Question, Statement
from w2s.tasks.choices import rows_from
from w2s.tasks.tables import is_utf8, nearest, require_file

ENTRY_POINTS = "w2s.tasks"
"""Group under which packages announce tasks."""


def entry_points() -> Mapping[str, str]:
    """Tasks that installed packages announce: name to "module:object"."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def read_python(spec: PythonTask) -> SourceRows:
    """The rows that a user's function returns.

    Raises:
        DataError: There is no such function, it fails, or it returns something else.
    """
    source, name = _located(spec.object)
    for file in spec.files:
        require_file(Path(file))
    function = _function(spec.object, source, name)
    arguments = dict(spec.params) | ({"files": list(spec.files)} if spec.files else {})
    try:
        returned = function(**arguments)
        splits = {key: list(rows) for key, rows in _splits(spec, returned).items()}
    except DataError:
        raise
    except Exception as error:
        line = _line_in(source, error)
        raise DataError(f"{spec.object}: failed{line}: {type(error).__name__}: {error}") from error
    dropped: Counter[str] = Counter()
    rows = {key: _rows(spec, key, values, dropped) for key, values in splits.items()}
    read = {key: len(values) for key, values in splits.items()}
    return SourceRows(rows["train"], rows.get("test"), dropped, read, f"{spec.object} ({source})")


def python_identity(spec: PythonTask, hash_file: HashFile) -> dict[str, Any]:
    """The function's name, the source that it stands in, and the bytes of the files that it reads.

    The source is its file, or, within a package, every Python file of the package's folder: helpers count as well.
    """
    source, name = _located(spec.object)
    for file in spec.files:
        require_file(Path(file))
    sources = sorted(source.parent.rglob("*.py")) if (source.parent / "__init__.py").is_file() else [source]
    return {
        "object": name,
        "source_hash": sorted([path.relative_to(source.parent).as_posix(), hash_file(path)] for path in sources)
        if len(sources) > 1
        else hash_file(source),
        "files": [hash_file(Path(file)) for file in spec.files],
    }


def _located(object_name: str) -> tuple[Path, str]:
    """The file that an object is defined in, and its name there. Nothing of the user's is run, but for packages that
    hold the module.

    Raises:
        DataError: There is no such file, module or entry point.
    """
    place = object_name
    if ":" not in place:
        known = entry_points()
        if place not in known:
            raise DataError(
                f"object {place!r}: no entry point of the group {ENTRY_POINTS}{nearest(place, known)} (there are:"
                f" {', '.join(sorted(known)) or 'none'}); otherwise write module:name or file.py:name"
            )
        place = known[place]
    module, _, name = place.rpartition(":")
    if module.endswith(".py"):
        path = Path(module).expanduser().absolute()
        require_file(path)
        return path, name
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        raise DataError(
            f"object {object_name!r}: Python finds no module {module!r}; put {module.replace('.', '/')}.py beside the"
            f" sweep file, install it, or write the file: path/to/{module.rpartition('.')[2]}.py:{name}"
        )
    return Path(found.origin), name


def _function(object_name: str, source: Path, name: str) -> Callable[..., Any]:
    module = _imported(object_name.rpartition(":")[0], source, hash_file(source))
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise DataError(f"{source}: has no {name!r}{nearest(name, [n for n in vars(module) if n[0] != '_'])}")
    if not callable(found):
        raise DataError(f"{source}: {name!r} is a {type(found).__name__}; a function that returns rows is needed")
    return found


@lru_cache(maxsize=32)
def _imported(module: str, source: Path, content: str) -> Any:
    """The module in a file. Known by its content, so that a process that stays sees a changed file."""
    if (source.parent / "__init__.py").is_file() and not module.endswith(".py"):
        return importlib.import_module(module or source.stem)  # a package's modules import each other by name
    name = f"w2s_task_{source.stem}_{content[:12]}"
    spec = importlib.util.spec_from_file_location(name, source)
    if spec is None or spec.loader is None:
        raise DataError(f"{source}: is no Python file")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses and the like look their module up
    sys.path.insert(0, str(source.parent))
    try:
        spec.loader.exec_module(loaded)
    except Exception as error:
        del sys.modules[name]
        line = _line_in(source, error)
        raise DataError(f"{source}: cannot be imported{line}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(source.parent))
    return loaded


def _line_in(source: Path, error: BaseException) -> str:
    """ ", line 7", the deepest place of an error that is in the user's file."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(source):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""


def _splits(spec: PythonTask, returned: Any) -> Mapping[str, Iterable[Any]]:
    if not isinstance(returned, Mapping) or "train" not in returned or set(returned) - {"train", "test"}:
        shown = f"the keys {sorted(map(str, returned))}" if isinstance(returned, Mapping) else type(returned).__name__
        needed = '{"train": rows, "test": rows} is needed, where "test" may be left out'
        raise DataError(f"{spec.object}: returned {shown}; {needed}")
    return {key: rows for key, rows in returned.items() if rows is not None}


_KINDS: Mapping[str, type[Statement | Question | Pair]] = {"text": Statement, "options": Question, "prompt": Pair}


def _rows(spec: PythonTask, split: str, values: list[Any], dropped: Counter[str]) -> list[Row]:
    rows: list[Row] = []
    for number, value in enumerate(values, start=1):
        try:
            converted = _converted(spec, value)
            rows += rows_from(converted, choices=spec.choices, seed=spec.splits.split_seed, dataset="python")
        except LeftOut as out:
            dropped[out.reason] += 1
        except DataError as error:
            raise DataError(f"{spec.object}, {split} row {number}: {error}") from None
    if not rows:
        raise DataError(f"{spec.object}: {split} has no usable row; left out: {left_out(dropped) or 'none'}")
    return rows


def _converted(spec: PythonTask, value: Any) -> Converted:
    if isinstance(value, Mapping):
        kind = next((kind for key, kind in _KINDS.items() if key in value), Statement)
        known = {field.name for field in fields(kind)}
        if unknown := set(value) - known:
            first = min(map(str, unknown))
            raise DataError(f"unknown key {first!r}{nearest(first, known)}")
        try:
            value = kind(**value)
        except TypeError as error:
            raise DataError(f"{value!r:.100}: {str(error).partition('() ')[2]}") from None
    if not isinstance(value, Statement | Question | Pair):
        raise DataError(f"is a {type(value).__name__}; a mapping with text and label, say, is needed")
    if isinstance(value, Pair) != (spec.form == "compare"):
        of_form = {"compare": "prompt, chosen and rejected", "classify": "text and label, or before, options and right"}
        needed = of_form[spec.form]
        raise DataError(f"a {type(value).__name__}, but the task's form is {spec.form}: {needed} are needed")
    return _checked(value)


def _checked(row: Converted) -> Converted:
    """The row with every field of the type that it is declared with: what a user's function put there is anything.

    Raises:
        LeftOut: It has no label.
        DataError: A field holds something else; names it.
    """
    groups = () if row.groups is None else row.groups
    groups = _texts("groups", (groups,) if isinstance(groups, str) else groups)
    match row:
        case Statement():
            text = _text("text", row.text)
            missing = row.label is None or (isinstance(row.label, float | np.floating) and np.isnan(row.label))
            if missing or _whole(row.label) == -1:
                raise LeftOut("unlabelled")
            label = _whole(row.label)
            if label not in (0, 1):
                raise DataError(f"label must be 0 or 1, got {row.label!r:.60}")
            return Statement(text, label, groups)
        case Question():
            options = _texts("options", row.options)
            return Question(
                before=_text("before", row.before),
                options=options,
                right=None if row.right is None else _option("right", row.right, len(options)),
                groups=groups,
                after=_text("after", row.after),
                barred=tuple(_option("barred", i, len(options)) for i in _several("barred", row.barred)),
            )
        case Pair():
            prompt, chosen, rejected = (_text(name, getattr(row, name)) for name in ("prompt", "chosen", "rejected"))
            return Pair(prompt, chosen, rejected, groups)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name} must be a text, got {value!r:.60}")
    if not is_utf8(value):
        raise DataError(f"{name} holds half of a surrogate pair, which is no character: {value!a:.60}")
    return value


def _several(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise DataError(f"{name} must be a list, got {value!r:.60}")
    return tuple(value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(f"{name}[{i}]", item) for i, item in enumerate(_several(name, value)))


def _whole(value: Any) -> int | None:
    """A whole number, also one that is written as a boolean or as 1.0, or is one of numpy's; None for anything else."""
    if isinstance(value, np.generic):
        value = value.item()
    return int(value) if isinstance(value, int) or (isinstance(value, float) and value.is_integer()) else None


def _option(name: str, value: Any, options: int) -> int:
    index = _whole(value)
    if index is None or not 0 <= index < options:
        raise DataError(f"{name} is {value!r:.60}, but there are {options} options, counted from 0")
    return index
