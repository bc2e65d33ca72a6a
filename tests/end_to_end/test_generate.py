"""Tasks whose answers are words, from files to the report, on real Ray: a rule for models of three sizes to learn."""

import itertools
import json
from pathlib import Path

import polars as pl
import pytest

from tests.end_to_end.drive import Results, w2s

pytestmark = pytest.mark.slow

WORDS = "red green blue stone river cloud tree bird house road gold iron salt rain snow wind".split()  # noqa: SIM905
SPEC = """\
name: answers
seeds: [0]
pairs: [[d8, d32], [d16, d32]]
ladder:
  seed: fixed
  rungs:
    - {name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 60_000}
    - {name: d16, hidden_size: 16, layers: 1, heads: 2, tokens: 60_000}
    - {name: d32, hidden_size: 32, layers: 2, heads: 2, tokens: 60_000}
  pretrain: {corpus: {kind: text, files: [corpus.txt], vocab_size: 300}, context: 32, batch_size: 16}
tasks:
  - name: last-word
    source: files
    form: generate
    train: [rows.jsonl]
    columns: {tags: [length]}
    splits: {supervise: 300, transfer: 300, validation: 60, test: 200}
methods:
  - naive
  - {name: bootstrap, label: bootstrap}
  - {name: filter, keep: 0.5}
  - {name: filter, by: random, keep: 0.5}
  - {name: ensemble, rule: vote}
  - early_stop
finetune: {learning_rate: 5.0e-3, epochs: 6, batch_size: 16, max_length: 32, eval_every: 40}
"""


def write_spec(folder: Path) -> Path:
    asked = list(itertools.product(WORDS, repeat=2)) + list(itertools.product(WORDS[:9], repeat=3))
    rows = [
        {"prompt": f"{' '.join(words)}:", "answer": f" {words[-1]}", "length": [len(words), f"of {len(words)}"]}
        for words in asked
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = (f"{a} {b}: {b}. {b} {c} {a}: {a}." for a, b, c in itertools.product(WORDS, WORDS[::3], WORDS[::4]))
    (folder / "corpus.txt").write_text("\n".join(texts))
    spec = folder / "answers.yaml"
    spec.write_text(SPEC)
    return spec


def test_a_sweep_of_answers_in_words_ends_in_a_report(tmp_path):
    results = Results(write_spec(tmp_path), tmp_path / "results")
    output = w2s("run", results.spec, "--storage", results.storage, cwd=tmp_path)
    session, store = results.session, results.store
    plan = session.plan
    assert f"{len(plan.runs)} of {len(plan.runs)} runs done now" in output
    assert {run.kind for run in plan.runs.values()} == {"tokenizer", "pretrain", "ground_truth", "transfer", "labels"}

    frames = {}
    for run_id in (i for i, run in plan.runs.items() if run.task is not None):
        frames[run_id] = pl.read_parquet(store.read(run_id, "predictions.parquet"))
        last = frames[run_id].filter(pl.col("step") == pl.col("step").max())
        assert dict(last.group_by("split").len().iter_rows()) == {"validation": 60, "transfer/0": 300, "test": 200}
        assert frames[run_id].schema["prediction"] == frames[run_id].schema["gold"] == pl.String
        assert (last["correct"] == (last["prediction"].str.strip_chars() == last["gold"].str.strip_chars())).sum() == (
            last["prediction"].is_not_null().sum()
        )

    # A student learns its supervisor's words; a filter leaves half of them.
    manifest = pl.read_parquet(store.path("sweeps", session.sweep_id, "manifest.parquet"))
    assert manifest["form"].unique().to_list() == ["generate"]
    assert dict(manifest.group_by("method").len().iter_rows()) == {
        "naive": 2,
        "bootstrap": 1,
        "filter(keep=0.5)": 2,
        "filter(by=random, keep=0.5)": 2,
        "ensemble(rule=vote)": 1,
        "early_stop": 2,
    }
    filtered = [i for i, run in plan.runs.items() if run.kind == "labels" and "filtered" in run.label]
    assert len(filtered) == 4
    for run_id in filtered:
        train = frames[run_id].filter(split="transfer/0")
        assert train["prediction"].null_count() == pytest.approx(150, abs=20)  # of those that had an answer

    table = pl.read_csv(f"{store.path('sweeps', session.sweep_id)}/report/tables/pairs.csv")
    assert table.height == manifest.height
    assert (table["ceiling_acc"] > 0).any()
    assert table["agreement"].is_between(0, 1).all()
    runs = pl.read_csv(f"{store.path('sweeps', session.sweep_id)}/report/tables/runs.csv")
    assert runs.filter(kind="transfer")["auroc"].null_count() == runs.filter(kind="transfer").height
    tags = pl.read_csv(f"{store.path('sweeps', session.sweep_id)}/report/tables/by_tag.csv")
    assert set(tags["tag"]) == {"length:2", "length:3", "length:of 2", "length:of 3"}
    naive = tags.filter(method="naive").filter(pl.col("tag").is_in(["length:2", "length:3"]))
    assert naive["n_test"].sum() == 200
    whole = table.filter(method="naive")["ceiling_acc"].mean()
    assert (naive["ceiling_acc"] * naive["n_test"]).sum() / 200 == pytest.approx(whole)
    assert (Path(store.path("sweeps", session.sweep_id)) / "report" / "index.html").exists()


def test_what_makes_no_sense_for_words_is_left_out_or_refused_by_name(tmp_path):
    spec = write_spec(tmp_path)
    text = spec.read_text()
    facts = "tasks:\n  - {name: spam, source: files, train: [spam.jsonl]}\n"
    rows = [{"text": f"{a} {b}", "label": i % 2} for i, (a, b) in enumerate(itertools.product(WORDS, WORDS))]
    (tmp_path / "spam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec.write_text(text.replace("tasks:\n", facts).replace("  - naive\n", "  - naive\n  - confidence\n  - probe\n"))
    said = w2s("plan", spec, cwd=tmp_path)
    assert "confidence on last-word: 2 pairs left out, confidence is for classify and compare only" in said
    assert "probe on last-word: 2 pairs left out" in said
    spec.write_text(text.replace("  - naive\n", "  - confidence\n"))
    assert "confidence is for classify and compare only" in w2s("plan", spec, check=2, cwd=tmp_path)
    spec.write_text(text.replace("max_length: 32", "max_length: 32, tune: head"))
    assert "trains the whole language model" in w2s("plan", spec, check=2, cwd=tmp_path)
