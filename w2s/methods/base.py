"""What a method is, and the registry of all of them.

There are two kinds. A `LossMethod` trains a student by a loss of its own; a `Procedure` arranges runs around the
training of a student (chains, ensembles, filters, ...) or replaces it (probes, prompts).

Torch is imported only when a method computes: planning a sweep reads this registry without it.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import ConfigDict, ValidationError

from w2s.config import Config, Form, MethodSpec
from w2s.errors import W2SError

if TYPE_CHECKING:
    from torch import Tensor


class MethodError(W2SError):
    """A method's name or parameters are wrong."""


@dataclass(frozen=True)
class Moment:
    """Where training stands."""

    step_fraction: float
    """Share of the optimisation steps done, in [0, 1): 0 at the first step."""
    weak_prior: float
    """Mean label over the training part, after `LossMethod.prepare`."""
    weak_spread: float
    """Median of |label - 1/2| over the training part, after `LossMethod.prepare`, in [0, 1/2]."""


class Method(Config):
    """A way to make a student from weak labels; the fields of a subclass are its parameters."""

    model_config = ConfigDict(use_attribute_docstrings=True)  # the texts below fields explain them to people, too

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for `w2s methods`."""
    source: ClassVar[str]
    forms: ClassVar[tuple[Form, ...]] = ("classify", "compare")
    """Forms of tasks that it is for; `generate`, whose labels are texts, where a method says so."""

    @property
    def oracle(self) -> bool:
        """Whether it looks at ground truth beyond the supervisor's own data: a diagnostic, marked so everywhere."""
        return False


class LossMethod(Method):
    """A method that is a loss.

    Training calls `prepare` once. Then, per optimisation batch, it calls `targets` once on the whole batch, however
    that is cut into micro-batches or spread over devices, so that thresholds and means over the batch are what the
    paper says they are; and `loss` on every micro-batch. The batch's loss is the sum of `loss` over its examples,
    divided by their number.
    """

    needs_student: ClassVar[bool] = False
    """Whether `targets` reads the student's log-odds; if so, a batch that does not fit into one forward pass is first
    run without gradient."""

    def prepare(self, weak: "Tensor") -> "Tensor":
        """The supervisor's P(class 1) for the whole training part as this method wants to see it, shape [examples]."""
        return weak

    def targets(self, weak: "Tensor", student: "Tensor | None", moment: Moment) -> "Tensor":
        """What each example of a whole optimisation batch is to learn, shape [batch].

        Args:
            weak: Labels after `prepare`, shape [batch].
            student: The student's log-odds, without gradient, shape [batch]; None unless `needs_student`.
            moment: Where training stands.
        """
        return weak

    def loss(self, z: "Tensor", targets: "Tensor", moment: Moment) -> "Tensor":
        """Loss of each example, shape [examples], from its log-odds `z` and its target."""
        from w2s.losses import cross_entropy

        return cross_entropy(z, targets)


M = TypeVar("M", bound=Method)
METHODS: dict[str, type[Method]] = {}
ORACLE_MARK = " [oracle]"


def register(method: type[M]) -> type[M]:
    """Class decorator that makes a method known under its `name`."""
    if method.name in METHODS:
        raise ValueError(f"two methods are called {method.name!r}: {METHODS[method.name]} and {method}")
    METHODS[method.name] = method
    return method


def as_method_spec(value: Any) -> Any:
    """A method as a person writes it, `naive` or `{name: confidence, max_weight: 0.75}`, with all its parameters.

    Raises:
        MethodError: What `build_method` raises.
    """
    if isinstance(value, MethodSpec):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise MethodError(f"a method is a name or a mapping with a name, got {value!r}")
    written = MethodSpec(name=value["name"], params={k: v for k, v in value.items() if k != "name"})
    return MethodSpec(name=written.name, params=build_method(written).model_dump(mode="json"))


def build_method(spec: MethodSpec) -> Method:
    """The method that a spec names, with its parameters checked.

    Raises:
        MethodError: Unknown name or parameter (the nearest right one is named), or a value out of range.
    """
    if spec.name not in METHODS:
        known = ", ".join(sorted(METHODS))
        raise MethodError(f"unknown method {spec.name!r}{_nearest(spec.name, METHODS)}; there are: {known}")
    method = METHODS[spec.name]
    try:
        return method.model_validate(dict(spec.params))
    except ValidationError as error:
        problems: dict[Any, list[Any]] = {}  # of a parameter that may be one of several things, one for each of them
        for problem in error.errors():
            problems.setdefault(problem["loc"][:1], []).append(problem)
        raise MethodError("; ".join(_explain(method, found) for found in problems.values())) from None


def method_label(method: Method) -> str:
    """Name and the parameters that differ from their defaults: `confidence(max_weight=0.75)`.

    A method that looks at ground truth is marked, so that no table or plot can show it without the mark.
    """
    # What a procedure does comes before what it does it to.
    fields = dict(sorted(type(method).model_fields.items(), key=lambda field: field[0] == "student"))
    changed = {key: getattr(method, key) for key in fields if getattr(method, key) != fields[key].default}
    shown = ", ".join(f"{key}={_shown(value)}" for key, value in changed.items())
    label = f"{method.name}({shown})" if changed else method.name
    return f"{label}{ORACLE_MARK}" if method.oracle else label


def _shown(value: Any) -> str:
    if isinstance(value, MethodSpec):
        return method_label(build_method(value)).removesuffix(ORACLE_MARK)
    if isinstance(value, tuple):
        return "+".join(_shown(item) for item in value)
    return str(value)


def _explain(method: type[Method], problems: list[Any]) -> str:
    """What is wrong with one parameter."""
    problem = problems[0]
    fields = method.model_fields
    key = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        known = ", ".join(fields) or "none"
        return f"method {method.name!r} has no parameter {key!r}{_nearest(key, fields)}; it has: {known}"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return f"method {method.name!r}: {message}"
    if problem["type"] == "value_error":
        return f"method {method.name!r}, parameter {key!r}: {message}"
    # Of several kinds of values, the one that nearly fits says most.
    nearly = [p for p in problems if p["type"] != "literal_error" and not p["type"].endswith(("_type", "_parsing"))]
    if len(nearly) == 1:
        problem, message = nearly[0], nearly[0]["msg"]
    elif len(problems) > 1:
        meaning = " ".join((fields[key].description or "see `w2s methods`").split())
        shown = _shown(problem["input"])
        return f"method {method.name!r}, parameter {key!r}: {shown} is not one of its values. {meaning}"
    return f"method {method.name!r}, parameter {key!r}: {message[0].lower() + message[1:]}, got {problem['input']!r}"


def _nearest(word: str, known: Any) -> str:
    match = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""
