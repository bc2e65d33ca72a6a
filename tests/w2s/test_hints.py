import numpy as np
import polars as pl
import pytest

from w2s.config import FactsTask, SplitSpec
from w2s.corpora import facts_tokenizer
from w2s.data import tokenise
from w2s.errors import DataError
from w2s.hints import SENTENCES, default_sentences, hints_fingerprint, with_hints
from w2s.tasks import load_task
from w2s.tasks.base import TaskData

SAYS = {"classify": ("I say 0.", "I say 1."), "compare": ("Worse.", "Better.")}


def classify(parts=("test", "test", "transfer/0")):
    n = len(parts)
    columns = {"example_id": list("abc")[:n], "part": list(parts), "label": [0, 1, 1][:n]}
    frame = pl.DataFrame(columns | {"text": ["A text.", "Another", ""][:n]}, schema_overrides={"label": pl.Int8})
    return TaskData("classify", frame, {"short": 2})


def compare():
    frame = pl.DataFrame(
        {
            "example_id": ["a", "b"],
            "part": ["test", "test"],
            "label": [0, 1],
            "prompt": ["Q: ", "R: "],
            "first": ["yes", "x"],
            "second": ["no", "y"],
        },
        schema_overrides={"label": pl.Int8},
    )
    return TaskData("compare", frame, {})


def facts(form="classify"):
    splits = SplitSpec(supervise=30, transfer=30, validation=10, test=20)
    task = FactsTask(name="facts", source="facts", form=form, splits=splits)
    return task, load_task(task)


def labels_of(data, seed=0):
    """Labels of all parts that a supervisor predicts."""
    ids = data.frame.filter(pl.col("part") != "supervise")["example_id"].to_list()
    p = np.random.default_rng(seed).random(len(ids)).tolist()
    return dict(zip(ids, p, strict=True))


def test_the_sentence_states_the_hardened_label_and_not_the_true_one():
    hinted = with_hints(classify(), {"a": 0.9, "b": 0.2, "c": 0.5}, sentences=SAYS["classify"])
    assert hinted.frame["text"].to_list() == ["A text. I say 1.", "Another I say 0.", " I say 0."]


def test_the_reply_that_the_supervisor_prefers_is_said_to_be_better():
    hinted = with_hints(compare(), {"a": 0.9, "b": 0.1}, sentences=SAYS["compare"]).frame
    assert hinted["first"].to_list() == ["yes Worse.", "x Better."]
    assert hinted["second"].to_list() == ["no Better.", "y Worse."]
    assert hinted["prompt"].to_list() == ["Q: ", "R: "]


@pytest.mark.parametrize("data", [classify(), compare()], ids=["classify", "compare"])
def test_ordinary_text_has_sentences_of_its_own(data):
    hinted = with_hints(data, dict.fromkeys("abc", 0.7)).frame
    last = hinted["text" if data.form == "classify" else "second"]
    assert last.str.ends_with(" " + SENTENCES[data.form][1]).all()


@pytest.mark.parametrize("form", ["classify", "compare"])
def test_nothing_but_the_texts_changes(form):
    task, data = facts(form)
    hinted = with_hints(data, labels_of(data), sentences=default_sentences(task))
    kept = ["example_id", "part", "label"] + (["prompt"] if form == "compare" else [])
    assert hinted.frame.select(kept).equals(data.frame.select(kept))
    assert hinted.frame.schema == data.frame.schema
    assert (hinted.form, hinted.dropped) == (data.form, data.dropped)


def test_parts_without_labels_stay_as_they_are():
    data = classify(("supervise", "test", "transfer/0"))
    hinted = with_hints(data, {"b": 1.0, "c": 1.0}, sentences=SAYS["classify"]).frame
    assert hinted["text"].to_list() == ["A text.", "Another I say 1.", " I say 1."]
    hinted = with_hints(data, {"c": 1.0}, sentences=SAYS["classify"], without=("supervise", "test")).frame
    assert hinted["text"].to_list() == ["A text.", "Another", " I say 1."]


def test_facts_are_followed_by_a_verdict_as_in_pretraining():
    task, data = facts()
    tokenizer = facts_tokenizer()
    p = labels_of(data)
    hinted = with_hints(data, p, sentences=default_sentences(task))
    before, after = tokenise(data, tokenizer, 8), tokenise(hinted, tokenizer, 8)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    for i, (example_id, part) in enumerate(data.frame.select("example_id", "part").iter_rows()):
        plain, row = (list(t.ids[t.offsets[i] : t.offsets[i + 1]]) for t in (before, after))
        verdict = [] if part == "supervise" else [yes if p[example_id] > 0.5 else no]
        assert row == plain + verdict


def test_both_facts_of_a_pair_are_followed_by_a_verdict():
    task, data = facts("compare")
    tokenizer = facts_tokenizer()
    p = labels_of(data)
    tokens = tokenise(with_hints(data, p, sentences=default_sentences(task)), tokenizer, 8)
    last = tokens.ids[tokens.offsets[1:] - 1].reshape(-1, 2)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    for pair, (example_id, part) in zip(last, data.frame.select("example_id", "part").iter_rows(), strict=True):
        if part != "supervise":
            assert pair.tolist() == ([no, yes] if p[example_id] > 0.5 else [yes, no])


def test_a_missing_label_is_refused_by_id():
    with pytest.raises(DataError, match=r"2 of 3 examples have no weak label to state, the first: b, c;"):
        with_hints(classify(), {"a": 0.5, "c": float("nan")})


def test_a_label_that_is_no_probability_is_refused():
    with pytest.raises(DataError, match=r"example b is 1\.5"):
        with_hints(classify(), {"a": 0.5, "b": 1.5, "c": 0.5})


def test_one_sentence_for_both_classes_is_refused():
    with pytest.raises(DataError, match="states no label"):
        with_hints(classify(), dict.fromkeys("abc", 0.5), sentences=("So.", "So. "))


def test_hints_with_the_same_texts_have_the_same_fingerprint_and_others_another():
    p = {"a": 0.9, "b": 0.2}
    fingerprint = hints_fingerprint(p, sentences=("no", "yes"))
    assert hints_fingerprint({"b": 0.3, "a": 0.6}, sentences=("no", "yes")) == fingerprint
    others = [
        hints_fingerprint(p | {"b": 0.7}, sentences=("no", "yes")),
        hints_fingerprint({"a": 0.9, "c": 0.2}, sentences=("no", "yes")),
        hints_fingerprint(p, sentences=("yes", "no")),
        hints_fingerprint(p, sentences=("no", "yes"), without=()),
    ]
    assert len({fingerprint, *others}) == 5
