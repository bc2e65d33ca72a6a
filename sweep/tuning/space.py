"""What a search may vary: the `space:` mapping of a `tune:` block, and its candidates.

A candidate is a dict from parameter (`method.max_weight`) to JSON value that holds just those parameters which exist
under it. How it is put to Optuna (names, encodings) is known here alone.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, RootModel, Tag, model_validator

from sweep.errors import ErrorAt, SpecError, nearest
from w2s.config import Config

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

LARGEST_GRID = 100_000
"""Candidates that `Space.grid` lists at most."""
_MANY = 10_000


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a number is needed, got {value!r}")
    return value


def _json(value: Any) -> Any:
    """The value, with lists for tuples."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        raise ValueError(
            f"a number, a text, true, false, null, or a list or mapping of these is needed, got {value!r}"
        ) from None


def _listed(conditions: Any) -> Any:
    if not isinstance(conditions, Mapping):
        raise ValueError(
            f"a mapping from parameter to values is needed, such as {{method.labels: [soft]}}, got {conditions!r}"
        )
    return {key: value if isinstance(value, list | tuple) else [value] for key, value in conditions.items()}


Number = Annotated[int | float, BeforeValidator(_number)]
JsonValue = Annotated[Any, BeforeValidator(_json)]
Values = Annotated[tuple[JsonValue, ...], Field(min_length=1)]


def same(one: Any, other: Any) -> bool:
    """Equal as JSON values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def shown(value: Any) -> str:
    """A JSON value as people write it in YAML, about."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


class _Parameter(Config):
    when: Annotated[Mapping[str, Values], BeforeValidator(_listed)] = {}
    """Parameters of the space, with the values under which this one exists; all of them must hold."""


class Range(_Parameter):
    """Numbers from `low` to `high`, both included."""

    low: Number
    high: Number
    log: bool = False
    """Whether factors count, not differences: 1 to 10 is as far as 10 to 100."""
    step: Number | None = None
    """Only low, low + step, ... Whole numbers have a step of 1."""
    whole: bool | None = None
    """Whether only whole numbers are tried; in a `tune:` block by default if the setting takes no others."""

    @model_validator(mode="after")
    def _ends_are_in_order(self) -> "Range":
        if self.low > self.high:
            raise ErrorAt(f"low {self.low:g} is above high {self.high:g}", "low")
        if self.step is not None and self.step <= 0:
            raise ErrorAt(f"a step above 0 is needed, got {self.step:g}", "step")
        if self.log and self.low <= 0:
            raise ErrorAt(f"with log: true, low must be above 0, got {self.low:g}", "low")
        if self.log and self.step is not None:
            raise ErrorAt("steps are even and log: true is not; keep one of them, or list the values", "step")
        for end in ("low", "high", "step"):
            value = getattr(self, end)
            if self.whole and value is not None and value != int(value):
                raise ErrorAt(f"a whole number is needed, got {value:g}", end)
        return self

    @property
    def is_whole(self) -> bool:
        """Whether its values are of type int: as `whole` says, else if it is written so."""
        written = all(isinstance(number, int) for number in (self.low, self.high, self.step or 0))
        return written if self.whole is None else self.whole

    @cached_property
    def count(self) -> int | None:
        """How many values it has; None for infinitely many."""
        if self.low == self.high:
            return 1
        step = self._exact_step
        return None if step is None else int((_exact(self.high) - _exact(self.low)) // step) + 1

    @property
    def _exact_step(self) -> Decimal | None:
        if self.step is not None:
            return _exact(self.step)
        return Decimal(1) if self.is_whole else None

    def values(self) -> Iterator[Any]:
        """All values, from the lowest; there must be finitely many."""
        assert self.count is not None, "ask count first"
        return (self._at(index) for index in range(self.count))

    def extremes(self) -> list[Any]:
        """The lowest and the highest value."""
        last = self._typed(self.high) if self.count is None else self._at(self.count - 1)
        first = self._typed(self.low)
        return [first] if first == last else [first, last]

    def _at(self, index: int) -> Any:
        # in decimals, so that 0.1 + 2 · 0.1 is 0.3
        return self._typed(_exact(self.low) + index * (self._exact_step or 0))

    def _typed(self, value: Any) -> Any:
        return int(value) if self.is_whole else float(value)

    def holds(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.count is None:
            return True
        index = self._index(value)
        return 0 <= index < self.count and self._at(index) == value

    def _index(self, value: float) -> int:
        return round((value - self.low) / float(self._exact_step or 1))

    def suggest(self, trial: "BaseTrial", key: str) -> Any:
        low, *rest = self.extremes()
        high = rest[0] if rest else low
        if self.is_whole:
            return trial.suggest_int(key, low, high, step=int(self.step or 1), log=self.log)
        if self.step is None:
            return trial.suggest_float(key, low, high, log=self.log)
        found = trial.suggest_float(key, low, high, step=float(self.step))
        return self._at(self._index(found))  # Optuna's arithmetic gives 0.30000000000000004

    def fixed(self, key: str, value: Any) -> dict[str, Any]:
        return {key: self._typed(value)}


class Choice(_Parameter):
    """One of several values; in YAML a list of them, or `{choices: [...], when: ...}`."""

    choices: tuple[JsonValue, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _lists_are_choices(cls, data: Any) -> Any:
        if isinstance(data, list | tuple):
            return {"choices": data}
        if not isinstance(data, Mapping):
            raise ValueError(
                "a list of choices, a range such as {low: 0.0, high: 1.0}, or {subset: [...]} is needed, "
                f"got {shown(data) if not isinstance(data, Choice) else data}"
            )
        return data

    @model_validator(mode="after")
    def _each_once(self) -> "Choice":
        encoded = [_encoded(choice) for choice in self.choices]
        for index, item in enumerate(encoded):
            if item in encoded[:index]:  # for Optuna, true is 1
                one, other = shown(self.choices[encoded.index(item)]), shown(self.choices[index])
                raise ErrorAt(f"{one} is given twice" if one == other else f"{one} and {other} count as one", index)
        return self

    @property
    def count(self) -> int:
        return len(self.choices)

    def values(self) -> Iterator[Any]:
        return iter(self.choices)

    def extremes(self) -> list[Any]:
        return list(self.choices)

    def holds(self, value: Any) -> bool:
        return any(same(value, choice) for choice in self.choices)

    def suggest(self, trial: "BaseTrial", key: str) -> Any:
        encoded = [_encoded(choice) for choice in self.choices]
        return self.choices[encoded.index(trial.suggest_categorical(key, encoded))]

    def fixed(self, key: str, value: Any) -> dict[str, Any]:
        return {key: _encoded(next(choice for choice in self.choices if same(value, choice)))}


class Subset(_Parameter):
    """Any of several names, kept in the order in which they are written; none of them is a choice, too.

    For Optuna each name is a yes or no of its own (`method.chain[d8]`), so that what is learnt about one name carries
    over to all subsets with it.
    """

    subset: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> "Subset":
        for index, name in enumerate(self.subset):
            if name in self.subset[:index]:
                raise ErrorAt(f"'{name}' is given twice; each is listed once", "subset", index)
        return self

    @property
    def count(self) -> int:
        return 2 ** len(self.subset)

    def values(self) -> Iterator[Any]:
        for chosen in itertools.product([False, True], repeat=len(self.subset)):
            yield list(itertools.compress(self.subset, chosen))

    def extremes(self) -> list[Any]:
        return [[], list(self.subset)]

    def holds(self, value: Any) -> bool:
        return isinstance(value, list | tuple) and list(value) == [name for name in self.subset if name in value]

    def suggest(self, trial: "BaseTrial", key: str) -> Any:
        return [name for name in self.subset if trial.suggest_categorical(f"{key}[{name}]", [False, True])]

    def fixed(self, key: str, value: Any) -> dict[str, Any]:
        return {f"{key}[{name}]": name in value for name in self.subset}


def _kind(value: Any) -> str:
    if isinstance(value, _Parameter):
        return type(value).__name__.lower()
    if isinstance(value, Mapping):
        return "subset" if "subset" in value else "choice" if "choices" in value else "range"
    return "choice"


Parameter = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choice, Tag("choice")] | Annotated[Subset, Tag("subset")],
    Discriminator(_kind),
]


class Space(RootModel[dict[str, Parameter]]):
    """All parameters of a search, each with its values and with the conditions under which it exists."""

    model_config = ConfigDict(frozen=True)

    @model_validator(mode="after")
    def _conditions_can_hold(self) -> "Space":
        if not self.root:
            raise ValueError("the space is empty; name at least one parameter, such as method.max_weight")
        for key, parameter in self.root.items():
            for parent, values in parameter.when.items():
                self._check_condition(key, parent, values)
        order = self.names  # raises if conditions go round in a circle
        parents = self._with_ancestors({parent for p in self.root.values() for parent in p.when})
        if math.prod(self.root[key].count or 1 for key in parents) <= _MANY:
            some = list(self._walk([key for key in order if key in parents]))
            for key in order:
                if not any(self.exists(key, params) for params in some):
                    raise ErrorAt("never exists: its conditions exclude each other", key, "when")
        return self

    def _check_condition(self, key: str, parent: str, values: Sequence[Any]) -> None:
        if parent not in self.root:
            message = (
                f"the space has no parameter '{parent}'{nearest(parent, [name for name in self.root if name != key])}"
            )
            raise ErrorAt(message, key, "when", parent)
        other = self.root[parent]
        if other.count is None:
            raise ErrorAt(
                f"'{parent}' takes any number in its range; a condition needs choices, whole numbers, or a step",
                key, "when", parent,
            )  # fmt: skip
        for value in values:
            if not other.holds(value):
                there = ", ".join(shown(v) for v in itertools.islice(other.values(), 8))
                more = ", ..." if other.count > 8 else ""
                raise ErrorAt(f"'{parent}' is never {shown(value)}; it is one of {there}{more}", key, "when", parent)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All parameters: as written, but each after those that it depends on. The order of suggestions."""
        done: list[str] = []
        while len(done) < len(self.root):
            ready = (
                key for key in self.root if key not in done and all(parent in done for parent in self.root[key].when)
            )
            following = next(ready, None)
            if following is None:
                circle = self._circle([key for key in self.root if key not in done])
                raise ErrorAt(f"exists only under itself: {' needs '.join(circle)}", circle[0], "when")
            done.append(following)
        return tuple(done)

    def _circle(self, stuck: list[str]) -> list[str]:
        path = [stuck[0]]
        while path[-1] not in path[:-1]:
            path.append(next(parent for parent in self.root[path[-1]].when if parent in stuck))
        return path[path.index(path[-1]) :]

    def _with_ancestors(self, keys: set[str]) -> set[str]:
        found: set[str] = set()
        while keys - found:
            found |= keys
            keys = {parent for key in found for parent in self.root[key].when}
        return found

    def exists(self, key: str, params: Mapping[str, Any]) -> bool:
        """Whether a parameter exists under the values of those that it depends on."""
        return all(
            parent in params and any(same(params[parent], value) for value in values)
            for parent, values in self.root[key].when.items()
        )

    def _walk(self, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Every way to give values to those of `keys` (in order, with ancestors) that exist; the last varies first."""

        def from_here(index: int, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if index == len(keys):
                yield params
            elif not self.exists(keys[index], params):
                yield from from_here(index + 1, params)
            else:
                for value in self.root[keys[index]].values():
                    yield from from_here(index + 1, {**params, keys[index]: value})

        return from_here(0, {})

    def suggest(self, trial: "BaseTrial") -> dict[str, Any]:
        """Ask Optuna for a candidate, parameter by parameter, in the order of `names`."""
        params: dict[str, Any] = {}
        for key in self.names:
            if self.exists(key, params):
                params[key] = self.root[key].suggest(trial, key)
        return params

    def fixed(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A candidate under Optuna's own names and values: what `suggest` answers with these is `params` again.

        Raises:
            SpecError: It is none of this space's.
        """
        if not self.contains(params):
            raise SpecError(f"the space has no candidate {shown(params)}")
        found: dict[str, Any] = {}
        for key in self.names:
            if key in params:
                found |= self.root[key].fixed(key, params[key])
        return found

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Whether it is a candidate: all parameters that exist under it, no others, each with one of its values."""
        known = {key: value for key, value in params.items() if key in self.root}
        return len(known) == len(params) and all(
            self.root[key].holds(params[key]) if self.exists(key, params) and key in params else
            not self.exists(key, params) and key not in params
            for key in self.root
        )  # fmt: skip

    @cached_property
    def endless(self) -> tuple[str, ...]:
        """The parameters without a finite number of values."""
        return tuple(key for key in self.names if self.root[key].count is None)

    @cached_property
    def size(self) -> int | None:
        """How many candidates there are; None for infinitely many."""
        if self.endless:
            return None
        parents = self._with_ancestors({parent for p in self.root.values() for parent in p.when})
        others = [key for key in self.names if key not in parents]
        free = math.prod(self.root[key].count or 0 for key in others if not self.root[key].when)
        bound = [key for key in others if self.root[key].when]
        return free * sum(
            math.prod(self.root[key].count or 0 for key in bound if self.exists(key, params))
            for params in self._walk([key for key in self.names if key in parents])
        )

    def grid(self) -> list[dict[str, Any]]:
        """All candidates, each once, the last parameter varying fastest.

        Raises:
            SpecError: There are infinitely many, or more than `LARGEST_GRID`.
        """
        if self.endless:
            raise SpecError(no_grid(self.endless), ("tune", "space", self.endless[0]))
        if (self.size or 0) > LARGEST_GRID:
            raise SpecError(
                f"tune.space: a grid of {self.size:,} candidates is too large; at most {LARGEST_GRID:,} are listed"
            )
        return list(self._walk(self.names))

    def whole_where(self, keys: Mapping[str, bool]) -> "Space":
        """With ranges that do not say so themselves made ranges of whole numbers, or of any.

        Raises:
            ErrorAt: An end of such a range is no whole number.
        """
        found: dict[str, Any] = {}
        for key, parameter in self.root.items():
            found[key] = parameter
            if isinstance(parameter, Range) and parameter.whole is False and keys.get(key):
                raise ErrorAt("this setting takes whole numbers only; leave whole out", key, "whole")
            if isinstance(parameter, Range) and parameter.whole is None and key in keys:
                for end in ("low", "high", "step"):
                    value = getattr(parameter, end)
                    if keys[key] and value is not None and value != int(value):
                        raise ErrorAt(
                            f"a whole number is needed, as this setting takes no others; got {value:g}", key, end
                        )
                found[key] = Range(**{**parameter.model_dump(), "whole": keys[key]})
        return Space(found)


def no_grid(endless: Sequence[str]) -> str:
    """Why there is no grid, and how to get one."""
    are = "has" if len(endless) == 1 else "have"
    return (
        f"a grid needs finitely many values, but {', '.join(endless)} {are} any number in the range; "
        "add a step, such as {low: 0.0, high: 1.0, step: 0.25}, or list the values"
    )


def _exact(value: float) -> Decimal:
    return Decimal(repr(value))


def _encoded(value: Any) -> Any:
    """As a category of Optuna, which are None, bool, int, float or str."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value, sort_keys=True)
