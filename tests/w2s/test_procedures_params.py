"""Parameters of procedures: what is refused, how they are written down, and what they are called."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from w2s.config import MethodSpec
from w2s.methods import (
    METHODS,
    ORACLE_MARK,
    Bootstrap,
    Ensemble,
    Filter,
    MethodError,
    Procedure,
    as_method_spec,
    build_method,
    method_label,
)

FRACTIONS = st.floats(0.01, 1).map(lambda x: round(x, 3))
RUNGS = st.lists(st.sampled_from(["d4", "d8", "d16", "d32"]), min_size=2, unique=True)
LAYERS = st.one_of(st.just("middle"), st.integers(-3, 3))
LOSSES = st.one_of(
    st.just({"name": "naive"}),
    st.fixed_dictionaries({"name": st.just("naive")}, optional={"labels": st.sampled_from(["hard", "balanced"])}),
    st.fixed_dictionaries({"name": st.just("confidence")}, optional={"max_weight": FRACTIONS, "warmup": FRACTIONS}),
    st.fixed_dictionaries({"name": st.just("window")}, optional={"radius": st.just("median")}),
)
PARAMETERS: dict[str, dict[str, st.SearchStrategy]] = {
    "bootstrap": {
        "chain": st.one_of(st.just("all"), st.integers(1, 9), RUNGS),
        "data": st.sampled_from(["same", "fresh"]),
        "links": st.lists(LOSSES, min_size=1, max_size=2),
    },
    "relabel": {"rounds": st.integers(1, 5)},
    "generative": {
        "texts": st.sampled_from(["train", "transfer"]),
        "epochs": st.integers(1, 5),
        "learning_rate_factor": FRACTIONS,
        "ceiling": st.sampled_from(["adjusted", "plain"]),
        "supervisor": st.sampled_from(["adjusted", "plain"]),
    },
    "early_stop": {"by": st.sampled_from(["weak", "oracle", "oracle_test"])},
    "filter": {
        "by": st.sampled_from(["confidence", "probe", "knn", "topological"]),
        "keep": FRACTIONS,
        "layer": LAYERS,
        "k": st.integers(1, 99),
    },
    "ensemble": {
        "members": st.one_of(st.sampled_from(["smaller", "seeds"]), RUNGS),
        "rule": st.sampled_from(["average", "vote"]),
    },
    "control": {"errors": st.sampled_from(["uniform", "longest", "shortest", "least_confident", "most_confident"])},
    "imitation": {},
    "easy_to_hard": {"rows": st.sampled_from(["easy", "any", "hard"]), "share": FRACTIONS},
    "probe": {
        "labels": st.just("weak"),
        "activations": st.just("finetuned"),
        "layer": LAYERS,
        "penalty": FRACTIONS,
        "ceiling": st.sampled_from(["probe", "finetuned"]),
    },
    "prompt": {
        "shots": st.integers(0, 9),
        "labels": st.sampled_from(["weak", "ground_truth"]),
        "max_length": st.integers(1, 4096),
    },
}


def methods(students: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    """Procedures as a person writes them, around given students."""

    def written(name: str) -> st.SearchStrategy[dict[str, Any]]:
        student = {"student": students} if issubclass(METHODS[name], Procedure) else {}
        fixed = {"name": st.just(name)}
        if name == "probe":  # a student is trained for these only
            fixed["activations"] = PARAMETERS[name]["activations"]
        if name == "prompt":  # examples carry labels, so there must be some
            fixed["shots"] = st.integers(1, 9)
        rest = {key: values for key, values in (PARAMETERS[name] | student).items() if key not in fixed}
        return st.fixed_dictionaries(fixed, optional=rest)

    return st.one_of(*map(written, sorted(PARAMETERS)))


METHODS_WRITTEN = methods(st.one_of(LOSSES, methods(LOSSES)))


def label(value: Any) -> str:
    return method_label(build_method(as_method_spec(value)))


def test_every_procedure_is_tried():
    assert set(PARAMETERS) == {n for n, m in METHODS.items() if issubclass(m, Procedure)} | {"prompt"}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_without_parameters_is_called_by_its_name(name):
    assert label(name).removesuffix(ORACLE_MARK) == name
    assert label({"name": name}) == label(name)


@given(METHODS_WRITTEN)
def test_every_method_survives_being_written_down(written):
    spec = as_method_spec(written)
    stored = json.loads(spec.model_dump_json())
    for again in ({"name": stored["name"], **stored["params"]}, MethodSpec.model_validate(stored)):
        assert as_method_spec(again) == spec
        assert build_method(as_method_spec(again)) == build_method(spec)
        assert label(again) == label(spec)


@given(METHODS_WRITTEN, METHODS_WRITTEN)
def test_methods_with_the_same_label_are_the_same(one, other):
    assert (label(one) == label(other)) == (build_method(as_method_spec(one)) == build_method(as_method_spec(other)))


@given(METHODS_WRITTEN, st.data())
def test_another_value_of_a_parameter_is_another_label(written, data):
    parameters = PARAMETERS[written["name"]]
    assume(parameters)  # imitation has none but its student
    key = data.draw(st.sampled_from(sorted(parameters)))
    other = written | {key: data.draw(parameters[key])}
    same = build_method(as_method_spec(written)) == build_method(as_method_spec(other))
    assert (label(written) == label(other)) == same


@given(METHODS_WRITTEN)
def test_the_label_ends_in_the_mark_if_the_method_sees_ground_truth(written):
    method = build_method(as_method_spec(written))
    assert method_label(method).endswith(ORACLE_MARK) == method.oracle
    assert method_label(method).count(ORACLE_MARK) == method.oracle


@given(methods(LOSSES), st.sampled_from(["bootstrap", "relabel", "generative", "filter", "ensemble", "imitation"]))
def test_a_method_around_an_oracle_is_an_oracle(inner, outer):
    method = build_method(as_method_spec(inner))
    assert build_method(as_method_spec({"name": outer, "student": inner})).oracle == method.oracle


@pytest.mark.parametrize(
    "written",
    [
        "control",
        "easy_to_hard",
        {"name": "early_stop", "by": "oracle"},
        {"name": "early_stop", "by": "oracle_test"},
        {"name": "prompt", "shots": 5, "labels": "ground_truth"},
        {"name": "probe", "labels": "ground_truth", "activations": "finetuned"},
        {"name": "bootstrap", "links": {"name": "filter", "student": "control"}},
        {"name": "bootstrap", "student": {"name": "early_stop", "by": "oracle"}},
        {"name": "early_stop", "student": {"name": "relabel", "student": "easy_to_hard"}},
    ],
    ids=label,
)
def test_what_looks_at_ground_truth_is_an_oracle(written):
    assert build_method(as_method_spec(written)).oracle
    assert label(written).endswith(ORACLE_MARK)


@pytest.mark.parametrize(
    "written",
    [
        "bootstrap",
        "filter",
        "generative",
        "early_stop",
        "imitation",
        "ensemble",
        "probe",
        {"name": "probe", "activations": "finetuned"},
        {"name": "prompt", "shots": 5},
    ],
    ids=label,
)
def test_what_learns_from_weak_labels_alone_is_no_oracle(written):
    assert not build_method(as_method_spec(written)).oracle


def test_a_label_says_what_a_procedure_does_before_what_it_does_it_to():
    written = {
        "student": {"name": "early_stop", "by": "oracle", "student": {"name": "confidence", "max_weight": 0.75}},
        "name": "bootstrap",
        "links": ["naive", "confidence"],
        "chain": ["d8", "d16"],
    }
    assert label(written) == (
        "bootstrap(chain=d8+d16, links=naive+confidence, "
        "student=early_stop(by=oracle, student=confidence(max_weight=0.75))) [oracle]"
    )


def test_a_default_that_is_written_out_or_made_by_hand_changes_nothing():
    assert label({"name": "bootstrap", "chain": "all", "student": {"name": "naive", "labels": "soft"}}) == "bootstrap"
    assert label({"name": "bootstrap", "links": ["naive"]}) == label({"name": "bootstrap", "links": "naive"})
    assert Bootstrap(student=MethodSpec(name="naive")) == Bootstrap()
    assert method_label(Bootstrap(links=(MethodSpec(name="naive"),))) == "bootstrap"


def test_a_filter_keeps_a_fifth_by_confidence_and_nine_tenths_otherwise():
    assert Filter().kept == 0.2
    assert {Filter(by=by).kept for by in ("probe", "knn", "topological")} == {0.9}
    assert Filter(keep=0.5).kept == 0.5


def test_members_of_an_ensemble_may_be_a_list_of_rungs():
    assert Ensemble.model_validate({"members": ["d4", "d8"]}).members == ("d4", "d8")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"name": "bootstrap", "links": []}, "links is empty; name at least one method"),
        ({"name": "bootstrap", "chain": []}, "chain is an empty list; name the rungs in between, or write all"),
        ({"name": "bootstrap", "chain": 0}, "greater than 0"),
        ({"name": "bootstrap", "data": "new"}, "'same' or 'fresh'"),
        ({"name": "bootstrap", "student": "confidense"}, "unknown method 'confidense'; did you mean 'confidence'"),
        (
            {"name": "filter", "student": {"name": "confidence", "max_wieght": 1}},
            "method 'confidence' has no parameter 'max_wieght'; did you mean 'max_weight'",
        ),
        ({"name": "relabel", "rounds": 0}, "greater than 0"),
        ({"name": "relabel", "studnet": "naive"}, "no parameter 'studnet'; did you mean 'student'"),
        ({"name": "generative", "epochs": True}, "a number is needed, got true"),
        ({"name": "generative", "learning_rate_factor": 0}, "greater than 0"),
        ({"name": "early_stop", "by": "test"}, "'weak', 'oracle' or 'oracle_test'"),
        ({"name": "filter", "keep": 0}, "keep is 0, which leaves nothing to learn from"),
        ({"name": "filter", "keep": 1.1}, "less than or equal to 1"),
        ({"name": "filter", "relabel": True}, "relabel goes with by: probe or knn, not with confidence"),
        ({"name": "filter", "by": "knn", "relabel": True, "keep": 0.5}, "relabel keeps all rows; leave keep out"),
        ({"name": "ensemble", "members": ["d4"]}, "name two rungs or more, each once"),
        ({"name": "ensemble", "members": ["d4", "d4"]}, "name two rungs or more, each once"),
        ({"name": "easy_to_hard", "share": -0.1}, "greater than or equal to 0"),
        ({"name": "probe", "labels": "ground_truth"}, "would be its own ceiling; write ceiling: finetuned"),
        ({"name": "probe", "student": "confidence"}, "a student is trained for activations: finetuned only"),
        ({"name": "probe", "layer": "last"}, "last is not one of its values. Hidden state to read"),
        ({"name": "prompt", "labels": "ground_truth"}, "goes with examples in the prompt; set shots"),
        ({"name": "prompt", "shots": -1}, "greater than or equal to 0"),
        ({"name": "prompt", "student": "naive"}, "method 'prompt' has no parameter 'student'"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_wrong_parameters_are_refused_in_words(written, message):
    with pytest.raises(MethodError) as error:
        as_method_spec(written)
    assert message in str(error.value)
    assert f"'{written['name']}'" in str(error.value)
