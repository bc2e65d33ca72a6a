"""Methods of every kind in one sweep: chains, filters, probes, prompts and other labels, on real Ray."""

import polars as pl
import pytest

from tests.end_to_end.drive import Results, w2s

pytestmark = pytest.mark.slow

METHODS = """\
pairs: [[d4, d16], [d8, d16]]
methods:
  - naive
  - bootstrap
  - {name: filter, by: probe}
  - {name: probe, activations: finetuned, labels: ground_truth}
  - {name: prompt, shots: 2}
  - ensemble
  - control
  - generative
  - imitation
  - early_stop
  - {name: early_stop, by: oracle_test, student: {name: filter, keep: 0.5}}
"""


def test_a_sweep_of_methods_of_every_kind_finishes_and_is_not_run_twice(tiny, tmp_path):
    spec = tiny(
        {
            "methods: [naive, confidence]\n": METHODS,
            "  seed: per_seed\n": "  seed: fixed\n  pretrain: {corpus: {kind: facts, statements_per_document: 3}}\n",
        }
    )
    results = Results(spec, tmp_path / "results")
    output = w2s("run", spec, "--storage", results.storage, cwd=tmp_path)
    session, store = results.session, results.store
    plan = session.plan
    assert f"{len(plan.runs)} of {len(plan.runs)} runs done now" in output
    assert "\nreport: " in output
    assert set(results.attempts()) == set(plan.runs)
    assert {run.kind for run in plan.runs.values()} == {
        "pretrain", "generative", "ground_truth", "activations", "labels", "transfer", "probe", "prompt",
    }  # fmt: skip

    # Everything that counts in a pair has a prediction for each example of the parts that all have in common.
    for run_id in {i for p in plan.pairs for i in (p.supervisor_id, p.student_id, p.ceiling_id)}:
        frame = pl.read_parquet(store.read(run_id, "predictions.parquet"))
        last = frame.filter(pl.col("step") == pl.col("step").max())
        assert dict(last.group_by("split").len().iter_rows()) == {"validation": 100, "transfer/0": 400, "test": 600}
        if plan.runs[run_id].kind != "labels":
            assert last["p"].null_count() == 0

    manifest = pl.read_parquet(store.path("sweeps", session.sweep_id, "manifest.parquet"))
    by_method = {method: rows for (method,), rows in manifest.group_by("method")}
    assert {method: rows.height for method, rows in by_method.items()} == {
        "naive": 2,
        "bootstrap": 1,
        "filter(by=probe)": 2,
        "probe(labels=ground_truth, activations=finetuned) [oracle]": 2,
        "prompt(shots=2)": 2,
        "ensemble": 1,
        "control [oracle]": 2,
        "generative": 2,
        "imitation": 2,
        "early_stop": 2,
        "early_stop(by=oracle_test, student=filter(keep=0.5)) [oracle]": 2,
    }
    assert {m for m, rows in by_method.items() if rows["oracle"].any()} == {m for m in by_method if "[oracle]" in m}

    # Rows that a filter took out are not trained on.
    def tokens(method: str) -> int:
        return store.read_json(by_method[method]["student_id"][0], "metrics.json")["train_tokens"]

    assert tokens("naive") == 2 * 400 * 3
    assert tokens("filter(by=probe)") == 2 * 360 * 3
    assert tokens("imitation") == 2 * 400 * 4
    # A control is as accurate as the supervisor that it stands for.
    accuracy = {
        pair.method: pl.read_parquet(store.read(pair.supervisor_id, "predictions.parquet"))
        .filter((pl.col("step") == pl.col("step").max()) & (pl.col("split") == "test"))["correct"]
        .sum()
        for pair in plan.pairs
        if (pair.weak, pair.strong) == ("d8", "d16")
    }
    assert accuracy["control [oracle]"] == accuracy["naive"]

    before = results.attempts()
    again = w2s("run", spec, "--storage", results.storage, cwd=tmp_path)
    assert f"nothing to run: {len(plan.runs)} of {len(plan.runs)}" in again
    assert results.attempts() == before
