"""Scores beside accuracy: how a task asks for them, and how they reach the analysis. No Ray, nothing is trained."""

import json

import polars as pl
import pytest
from pydantic import TypeAdapter, ValidationError

import analysis
from sweep.session import Session
from sweep.storage.manifest import write_manifest
from w2s.config import TaskSpec
from w2s.tasks import task_fingerprint
from w2s.tasks.catalogue import datasets

SPEC = """\
name: asked
seeds: [0]
ladder:
  rungs:
    - {name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 10_000}
    - {name: d16, hidden_size: 16, layers: 1, heads: 2, tokens: 10_000}
  pretrain: {corpus: {kind: text, files: [corpus.txt], vocab_size: 300}, context: 32, batch_size: 16}
tasks:
  - {dataset: wts_safety, mirror: mirror}
  - {name: mine, source: files, train: [mine.jsonl], metrics: [macro_f1]}
  - {name: plain, source: files, train: [other.jsonl]}
methods: [naive]
finetune: {learning_rate: 1.0e-3, epochs: 1, batch_size: 16, max_length: 32}
"""
FILES = {"name": "mine", "source": "files", "train": ["mine.jsonl"]}


def task(**keys):
    return TypeAdapter(TaskSpec).validate_python(keys)


def write_inputs(folder) -> None:
    for name in ("mine", "other"):
        rows = [{"text": f"row {i} of {name}", "label": i % 2} for i in range(200)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "corpus.txt").write_text("\n".join(f"some text {i} of a corpus" for i in range(200)))
    (folder / "mirror" / "wts_safety").mkdir(parents=True)
    lines = [f"how do I do number {i}?,{i % 2 == 0}" for i in range(200)]
    (folder / "mirror" / "wts_safety" / "safety.csv").write_text("\n".join(["prompt,is_safe", *lines]))


def test_what_a_task_asks_for_reaches_the_analysis_through_the_manifest(tmp_path):
    write_inputs(tmp_path)
    (tmp_path / "asked.yaml").write_text(SPEC)
    session = Session.open(str(tmp_path / "asked.yaml"), str(tmp_path / "results"))
    name = write_manifest(session.store, session.spec, session.plan, session.text)
    rows = pl.read_parquet(session.store.path("sweeps", name, "manifest.parquet"))
    said = dict(rows.select("task", pl.struct("metrics", "unsafe_label")).unique().iter_rows())
    assert said == {
        "wts_safety": {"metrics": "unsafe_rate,false_alarm_rate,macro_f1", "unsafe_label": 0},
        "mine": {"metrics": "macro_f1", "unsafe_label": None},
        "plain": {"metrics": "", "unsafe_label": None},
    }
    results = analysis.load(str(tmp_path / "results")).results
    assert results.asked == {
        "wts_safety": (("unsafe_rate", "false_alarm_rate", "macro_f1"), 0),
        "mine": (("macro_f1",), None),
    }


def test_scores_are_no_part_of_what_a_run_is(tmp_path):
    write_inputs(tmp_path)
    train = {"train": [str(tmp_path / "mine.jsonl")]}
    plain = task_fingerprint(task(**FILES | train))
    asked = task(**FILES | train, metrics=["macro_f1", "unsafe_rate"], unsafe_label=1)
    assert task_fingerprint(asked) == plain


@pytest.mark.parametrize("entry", [e for e in datasets().values() if e.metrics or e.unsafe_label is not None])
def test_datasets_of_the_catalogue_bring_their_scores_and_a_task_may_name_others(entry):
    own = task(source="catalogue", dataset=entry.key)
    assert (own.metrics, own.unsafe_label) == (entry.metrics, entry.unsafe_label)
    assert ("unsafe_rate" in own.metrics) == (own.unsafe_label is not None)
    assert task(source="catalogue", dataset=entry.key, metrics=["weighted_f1"]).metrics == ("weighted_f1",)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"metrics": ["unsafe_rate"]}, "say which class is the harmful one: unsafe_label: 0 or 1"),
        ({"metrics": ["f1"]}, "'balanced_accuracy', 'macro_f1'"),
        ({"metrics": ["macro_f1"], "form": "generate"}, "only for form classify, but form is generate"),
        ({"unsafe_label": 1, "form": "compare"}, "only for form classify, but form is compare"),
        ({"unsafe_label": 2}, "unsafe_label"),
        ({"unsafe_label": 1}, "serves no score; name one in metrics: unsafe_rate or false_alarm_rate"),
        ({"source": "catalogue", "dataset": "wts_safety", "unsafe_label": 1}, "has label 0 for harm"),
        ({"source": "catalogue", "dataset": "boolq", "unsafe_label": 1}, "has no harmful class"),
    ],
)
def test_what_cannot_be_scored_is_refused(keys, said):
    with pytest.raises(ValidationError, match=r"metrics|unsafe_label") as error:
        task(**keys if "source" in keys else FILES | keys)
    assert said in str(error.value)
