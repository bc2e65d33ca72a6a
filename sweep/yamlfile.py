"""YAML as people write it: safe, 1e-5 is a number, a key given twice is an error, and every key knows its line."""

import re
from pathlib import Path
from typing import Any

import yaml

from sweep.errors import SpecError

Location = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    pass


# YAML 1.1, which PyYAML follows, reads 1e-5 as text because it wants a dot and a signed exponent.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_yaml(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """The mapping in a YAML file, and the line (from 1) of every key and item.

    Raises:
        SpecError: The file is missing, not YAML, not a mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: is a folder; a spec is a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        lines: dict[Location, int] = {}
        if root is not None:
            _note_lines(path, root, (), lines)
        data = loader.construct_document(root) if root is not None else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpecError(f"{path}: not valid YAML: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        holds = "is empty" if data is None else "holds a list" if isinstance(data, list) else f"holds only {data!r}"
        raise SpecError(f"{path}: {holds}; a spec is a mapping, see examples/facts.yaml")
    return data, lines


def place_of(path: Path, lines: dict[Location, int], at: Location) -> str:
    """`file:line` of the innermost key around `at` that has a line; the file alone if there is none."""
    line = next((lines[at[:n]] for n in range(len(at), 0, -1) if at[:n] in lines), None)
    return f"{path}:{line}" if line else str(path)


def _note_lines(path: Path, node: yaml.Node, where: Location, lines: dict[Location, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise SpecError(f"{path}:{key.start_mark.line + 1}: a key must be a word, not a list or a mapping")
            place = (*where, key.value)
            if place in lines:
                raise SpecError(f"{path}:{key.start_mark.line + 1}: key '{key.value}' is given twice")
            lines[place] = key.start_mark.line + 1
            _note_lines(path, value, place, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*where, index)] = item.start_mark.line + 1
            _note_lines(path, item, (*where, index), lines)
