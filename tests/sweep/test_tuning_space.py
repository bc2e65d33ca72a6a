"""Search spaces: what they suggest is what they contain, list and fix."""

import itertools
import json

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sweep.errors import ErrorAt, SpecError
from sweep.tuning.space import Space


def space_of(**parameters) -> Space:
    return Space.model_validate(parameters)


NESTED = {
    "method.warmup": {"low": 0.0, "high": 0.6, "when": {"method.labels": "soft"}},
    "method.labels": ["soft", "hard"],
    "method.chain": {"subset": ["d8", "d16"]},
    "method.student": {"choices": ["naive", {"name": "confidence"}], "when": {"method.chain": [["d8"], ["d8", "d16"]]}},
    "finetune.epochs": {"low": 1, "high": 3},
}

number = st.integers(-3, 6)
scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | st.text(max_size=3)
jsons = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=2), scalars, max_size=2)


@st.composite
def parameters(draw, *, finite: bool):
    kind = draw(st.sampled_from(["int", "stepped", "choice", "subset"] + ([] if finite else ["float", "log"])))
    low = draw(number)
    match kind:
        case "int":
            return {"low": low, "high": low + draw(st.integers(0, 4)), "step": draw(st.integers(1, 2))}
        case "stepped":
            return {"low": low / 10, "high": low / 10 + draw(st.integers(0, 3)) / 10, "step": 0.1, "whole": False}
        case "choice":
            encoded = st.lists(jsons, min_size=1, max_size=3, unique_by=lambda v: json.dumps(v, sort_keys=True))
            return {"choices": draw(encoded.filter(distinct))}
        case "subset":
            return {"subset": draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True))}
        case "float":
            return {"low": float(low), "high": low + draw(st.floats(0.1, 2))}
        case _:
            return {"low": 10.0**low, "high": 10.0 ** (low + 1), "log": True}


def distinct(values) -> bool:
    """For Python 1, 1.0 and true are one, and a list is what its text is to Optuna."""
    keys = [v if not isinstance(v, list | dict) else json.dumps(v, sort_keys=True) for v in values]
    return all(keys.index(key) == index for index, key in enumerate(keys))


@st.composite
def spaces(draw, *, finite: bool = False):
    """Up to four parameters in any order, some under conditions on earlier ones."""
    found: dict[str, dict] = {}
    for index in range(draw(st.integers(1, 4))):
        parameter = draw(parameters(finite=finite))
        parents = [k for k, p in found.items() if Space({k: {**p, "when": {}}}).size is not None]
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            values = list(Space({parent: {**found[parent], "when": {}}}).root[parent].values())
            parameter["when"] = {parent: draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))}
        found[f"p{index}"] = parameter
    return Space(dict(draw(st.permutations(list(found.items())))))  # pyright: ignore[reportArgumentType]


def brute_force(space: Space) -> list[dict]:
    """All products of values with "not there", filtered by the conditions."""
    absent = object()
    rows = []
    for row in itertools.product(*[[absent, *space.root[key].values()] for key in space.root]):
        params = {key: value for key, value in zip(space.root, row, strict=True) if value is not absent}
        if all((key in params) == met(space, key, params) for key in space.root):
            rows.append(params)
    return rows


def met(space: Space, key: str, params: dict) -> bool:
    # compared as JSON text of floats, so that true is not 1
    def text(value):
        return json.dumps(float(value) if type(value) in (int, float) else value, sort_keys=True)

    when = space.root[key].when
    return all(p in params and text(params[p]) in [text(v) for v in values] for p, values in when.items())


def canonical(params: dict) -> str:
    return json.dumps(params, sort_keys=True)


@settings(max_examples=80, deadline=None)
@given(spaces(), st.integers(0, 10**6))
def test_what_is_suggested_is_contained_and_fixed_gives_it_back(space, seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    params = space.suggest(study.ask())
    assert space.contains(params)
    assert space.suggest(optuna.trial.FixedTrial(space.fixed(params))) == params
    stored = json.loads(json.dumps(params))
    assert space.contains(stored)
    assert space.fixed(stored) == space.fixed(params)


@settings(max_examples=80, deadline=None)
@given(spaces(finite=True))
def test_a_grid_is_the_product_filtered_by_conditions_each_once(space):
    grid = space.grid()
    listed = [canonical(params) for params in grid]
    assert len(set(listed)) == len(listed) == space.size
    assert sorted(listed) == sorted(canonical(params) for params in brute_force(space))
    for params in grid:
        assert space.contains(params)
        assert space.suggest(optuna.trial.FixedTrial(space.fixed(params))) == params


@settings(max_examples=40, deadline=None)
@given(spaces(), st.integers(0, 10**6), st.data())
def test_a_candidate_with_a_parameter_too_many_or_too_few_is_none(space, seed, data):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    params = space.suggest(study.ask())
    dropped = data.draw(st.sampled_from(sorted(params)))
    assert not space.contains({key: value for key, value in params.items() if key != dropped})
    assert not space.contains({**params, "other": 1})
    assert not space.contains({**params, dropped: ["none", "of", "its", "values"]})


def test_parameters_are_suggested_as_written_but_after_what_they_depend_on():
    space = Space.model_validate(NESTED)
    assert space.names == ("method.labels", "method.warmup", "method.chain", "method.student", "finetune.epochs")
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    space.suggest(trial)
    asked = [name for name in ("method.labels", "method.chain[d8]", "method.chain[d16]") if name in trial.params]
    assert asked == ["method.labels", "method.chain[d8]", "method.chain[d16]"]


def test_fixed_speaks_optunas_language():
    space = Space.model_validate(NESTED)
    params = {
        "method.labels": "hard",
        "method.chain": ["d8"],
        "method.student": {"name": "confidence"},
        "finetune.epochs": 2,
    }
    assert space.fixed(params) == {
        "method.labels": "hard",
        "method.chain[d8]": True,
        "method.chain[d16]": False,
        "method.student": '{"name": "confidence"}',
        "finetune.epochs": 2,
    }
    with pytest.raises(SpecError, match=r"no candidate \{method.labels: hard\}"):
        space.fixed({"method.labels": "hard"})


def test_contains_by_hand():
    space = Space.model_validate(NESTED)
    good = {"method.labels": "soft", "method.warmup": 0.3, "method.chain": [], "finetune.epochs": 1}
    assert space.contains(good)
    assert not space.contains({**good, "method.labels": "hard"})  # then there is no warm-up
    assert not space.contains({**good, "method.warmup": 0.7})
    assert not space.contains({**good, "finetune.epochs": 1.5})
    assert not space.contains({**good, "finetune.epochs": True})
    assert not space.contains({**good, "method.chain": ["d16", "d8"]})  # not in order
    assert not space.contains({**good, "method.chain": ["d8"]})  # then there is a student to choose
    assert space.contains({**good, "method.chain": ["d8"], "method.student": "naive"})


def test_true_is_not_one_and_one_is_one_point_nought():
    space = space_of(x=[True, "a"], y=[1, [1, True]], z={"choices": [0], "when": {"x": True}})
    assert space.contains({"x": True, "y": 1.0, "z": 0})
    assert not space.contains({"x": 1, "y": 1, "z": 0})
    assert not space.contains({"x": "a", "y": True})
    assert not space.contains({"x": "a", "y": [1, 1]})
    assert space.contains({"x": "a", "y": [1.0, True]})


def test_steps_are_exact_decimals_and_stay_below_high():
    space = space_of(x={"low": 0.1, "high": 0.75, "step": 0.2})
    assert [params["x"] for params in space.grid()] == [0.1, 0.3, 0.5, 0.7]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert {space.suggest(study.ask())["x"] for _ in range(60)} == {0.1, 0.3, 0.5, 0.7}


def test_sizes_by_hand():
    finite = {**NESTED, "method.warmup": {"low": 0, "high": 1, "step": 0.5, "when": {"method.labels": ["soft"]}}}
    assert Space.model_validate(finite).size == (3 + 1) * (2 + 2 * 2) * 3
    assert Space.model_validate(NESTED).size is None
    assert space_of(x={"low": 2.5, "high": 2.5}).size == 1
    assert space_of(x={"low": 1, "high": 10**12}).size == 10**12


def test_a_grid_that_is_infinite_or_too_large_is_refused():
    with pytest.raises(SpecError, match=r"method.warmup has any number .* add a step, such as \{low"):
        Space.model_validate(NESTED).grid()
    with pytest.raises(SpecError, match="1,000,000 candidates is too large"):
        space_of(x={"low": 1, "high": 10**6}).grid()


def test_whole_numbers_are_a_matter_of_the_setting():
    space = space_of(x={"low": 0, "high": 2}, y={"low": 0.0, "high": 2.0}).whole_where({"x": False, "y": True})
    assert space.endless == ("x",)
    params = space.suggest(optuna.create_study().ask())
    assert (type(params["x"]), type(params["y"])) == (float, int)
    with pytest.raises(ErrorAt, match="whole number is needed") as caught:
        space_of(x={"low": 0, "high": 2.5}).whole_where({"x": True})
    assert caught.value.at == ("x", "high")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "the space is empty"),
        ({"x": {"low": 2, "high": 1}}, "low 2 is above high 1"),
        ({"x": {"low": 0, "high": 1, "log": True}}, "low must be above 0, got 0"),
        ({"x": {"low": 1.0, "high": 2.0, "log": True, "step": 0.5}}, "steps are even and log: true is not"),
        ({"x": {"low": 0, "high": 1, "step": 0}}, "a step above 0"),
        ({"x": {"low": float("nan"), "high": 1}}, "a number is needed, got nan"),
        ({"x": {"low": True, "high": 3}}, "a number is needed, got True"),
        ({"x": {"low": 0.5, "high": 3, "whole": True}}, "a whole number is needed, got 0.5"),
        ({"x": "soft"}, "a list of choices, a range .* is needed, got soft"),
        ({"x": ["a", "b", "a"]}, "a is given twice"),
        ({"x": [1, True]}, "1 and true count as one"),
        ({"x": [float("inf")]}, "or a list or mapping of these is needed, got inf"),
        ({"x": {"subset": ["a", "a"]}}, "'a' is given twice"),
        ({"x": {"low": 0, "high": 1, "when": {"labels": "soft"}}, "lables": ["soft"]}, "did you mean 'lables'"),
        ({"x": {"choices": [1], "when": {"y": 3}}, "y": [1, 2]}, "'y' is never 3; it is one of 1, 2"),
        ({"x": {"choices": [1], "when": {"y": 0.5}}, "y": {"low": 0.0, "high": 1.0}}, "'y' takes any number"),
        ({"x": {"choices": [1], "when": {"x": 1}}}, "exists only under itself: x needs x"),
        (
            {"x": {"choices": [1], "when": {"y": 1}}, "y": {"choices": [1], "when": {"x": 1}}},
            "exists only under itself: x needs y needs x",
        ),
        (
            {"x": {"choices": [1], "when": {"y": 1, "z": 1}}, "y": {"choices": [1], "when": {"z": 2}}, "z": [1, 2]},
            "never exists: its conditions exclude each other",
        ),
    ],
)
def test_a_wrong_space_is_refused(space, message):
    with pytest.raises(ValidationError, match=message):
        Space.model_validate(space)
