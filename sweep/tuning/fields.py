"""What the keys of a search space name: parameters of methods, and finetuning settings. Pure."""

import copy
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from sweep.errors import nearest
from sweep.tuning.space import Choice, Space
from w2s.config import FinetuneSettings, MethodSpec
from w2s.methods import METHODS, MethodError

METHOD, FINETUNE = "method.", "finetune."


def of_method(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the method, without "method.", in an order in which they can be set one after the other."""
    found = {key.removeprefix(METHOD): value for key, value in params.items() if key.startswith(METHOD)}
    return dict(sorted(found.items(), key=lambda item: (item[0].count("."), not item[0].endswith(".name"))))


def of_finetuning(params: Mapping[str, Any]) -> dict[str, Any]:
    """The finetuning settings as a method of the grid has them: `{"lora": {"rank": 8}, "learning_rate_factor": 2}`."""
    found: dict[str, Any] = {}
    for key in sorted(params, key=lambda key: key.count(".")):
        if key.startswith(FINETUNE):
            *path, last = key.removeprefix(FINETUNE).split(".")
            node = found
            for part in path:
                inner = node.get(part)
                node[part] = dict(inner) if isinstance(inner, Mapping) else {}
                node = node[part]
            node[last] = params[key]
    return found


def method_with(method: MethodSpec, params: Mapping[str, Any]) -> MethodSpec:
    """The method with the parameters of a candidate; its other ones stay as written, and nothing is checked.

    `student.max_weight` is the parameter of the method that `student` names. Where a list of methods is
    meant (`links.max_weight`), all of them get it; `links.0.max_weight` is that of the first.

    Raises:
        MethodError: A parameter of something that is no method, `max_weight.low`.
    """
    tree: dict[str, Any] = copy.deepcopy({"name": method.name, **method.params})
    for key, value in of_method(params).items():
        if key == "name":
            raise MethodError(
                "the method itself is not searched; write tune.method, or a method's inner method as a choice"
            )
        _put(tree, key.split("."), value)
    name = tree.pop("name")
    return MethodSpec(name=name, params=tree)


def _put(node: dict[str, Any], path: list[str], value: Any) -> None:
    part, *rest = path
    if not rest:
        if part == "name":  # the parameters of another method are not this one's
            node.clear()
        node[part] = value
        return
    inner = node[part] if part in node else _default(node.get("name"), part)
    if isinstance(inner, list | tuple) and inner:
        items = [_as_tree(item, part, rest[0]) for item in inner]
        if rest[0].isdigit():
            if int(rest[0]) >= len(items) or len(rest) < 2:
                raise MethodError(f"{part} has no entry {rest[0]}{' with parameters' if len(rest) < 2 else ''}")
            items, rest, node[part] = [items[int(rest[0])]], rest[1:], items
        else:
            node[part] = items
        for item in items:
            _put(item, rest, value)
        return
    node[part] = _as_tree(inner, part, rest[0])
    _put(node[part], rest, value)


def _default(method: Any, parameter: str) -> Any:
    field = METHODS[method].model_fields.get(parameter) if method in METHODS else None
    if field is None and method in METHODS:
        known = METHODS[method].model_fields
        raise MethodError(f"method '{method}' has no parameter '{parameter}'{nearest(parameter, known)}")
    return None if field is None else field.default


def _as_tree(value: Any, parameter: str, wanted: str) -> dict[str, Any]:
    if isinstance(value, str) and value in METHODS:
        return {"name": value}
    if isinstance(value, MethodSpec):
        return {"name": value.name, **value.params}
    if isinstance(value, Mapping):
        return dict(value)
    raise MethodError(f"'{parameter}' is no method that could have a parameter '{wanted}'")


def is_given(method: MethodSpec, key: str) -> bool:
    """Whether a method as written says what the parameter `key` of a space is."""
    node: Any = method.params
    for part in key.removeprefix(METHOD).split("."):
        if isinstance(node, list | tuple):
            inner = [item[part] for item in node if isinstance(item, Mapping) and part in item]
            if part.isdigit() and int(part) < len(node):
                inner = [node[int(part)]]
            if not inner:
                return False
            node = inner[0]
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
        else:
            return False
    return True


def whole_only(key: str, method: MethodSpec, space: Space) -> bool:
    """Whether the setting that `key` names takes whole numbers but no others; False for what is unknown."""
    kinds: set[Any] = set()
    for annotation in _annotations(key, method, space):
        kinds |= _scalars(annotation)
    return int in kinds and float not in kinds


def _annotations(key: str, method: MethodSpec, space: Space) -> Iterator[Any]:
    """The annotations of the fields that a key may mean: several if an inner method is searched, too."""
    *path, last = key.split(".")
    owners: list[type[BaseModel]] = []
    if key.startswith(FINETUNE):
        owners = [FinetuneSettings]
        for part in path[1:]:
            inner = [owner.model_fields[part].annotation for owner in owners if part in owner.model_fields]
            owners = [model for annotation in inner for model in _models(annotation)]
    elif key.startswith(METHOD):
        owners = _methods_at(path, method, space)
    for owner in owners:
        if last in owner.model_fields:
            yield owner.model_fields[last].annotation


def _methods_at(path: list[str], method: MethodSpec, space: Space) -> list[type[BaseModel]]:
    """The methods that may stand at `method.student....`: what is written, searched, or default there."""
    written: list[Any] = [{"name": method.name, **method.params}]
    for depth in range(1, len(path)):
        part, prefix = path[depth], ".".join(path[: depth + 1])
        if part.isdigit():
            continue
        following: list[Any] = []
        for node in written:
            name = node.get("name")
            field = METHODS[name].model_fields.get(part) if name in METHODS else None
            following += _trees(node.get(part, field and field.default))
        for key in (prefix, f"{prefix}.name"):
            searched = space.root.get(key)
            if isinstance(searched, Choice):
                following += [tree for value in searched.choices for tree in _trees(value)]
        written = following
    return [METHODS[node["name"]] for node in written if node.get("name") in METHODS]


def _trees(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list | tuple):
        return [tree for item in value for tree in _trees(item)]
    try:
        return [_as_tree(value, "", "")]
    except MethodError:
        return []


def _scalars(annotation: Any) -> set[Any]:
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType):
        return {kind for arg in typing.get_args(annotation) for kind in _scalars(arg)}
    return {annotation} if annotation in (int, float) else set()


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType):
        return [model for arg in typing.get_args(annotation) for model in _models(arg)]
    return []
