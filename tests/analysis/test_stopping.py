import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analysis
from analysis.results import load as load_results
from analysis.stopping import Stop, available_steps, stop_step, weak_labels

IDS = [f"e{i}" for i in range(4)]


def evaluations(predictions, *, gold=(1, 0, 1, 0), split="validation"):
    """Rows of both splits; `predictions`: step -> predictions on `split`. The other split always predicts 0."""
    other = "test" if split == "validation" else "validation"
    rows = [
        {"example_id": i, "split": name, "step": step, "gold": g, "prediction": p if name == split else 0}
        for step, predicted in predictions.items()
        for name in (split, other)
        for i, g, p in zip(IDS, gold, predicted, strict=True)
    ]
    return pl.DataFrame(rows)


def labels(values):
    return pl.DataFrame({"example_id": IDS, "label": values}, schema_overrides={"label": pl.Int8})


def test_each_rule_looks_at_its_own_labels():
    frame = pl.concat(
        [
            evaluations({10: (1, 1, 1, 1), 20: (1, 0, 1, 0), 30: (0, 0, 0, 1)}).filter(split="validation"),
            evaluations({10: (1, 0, 1, 0), 20: (0, 0, 0, 0), 30: (0, 1, 0, 1)}, split="test").filter(split="test"),
        ]
    )
    weak = labels([0, 0, 0, 1])
    chosen = {stop: stop_step(frame, stop, weak) for stop in Stop}
    assert chosen == {Stop.LAST: 30, Stop.WEAK: 30, Stop.ORACLE: 20, Stop.ORACLE_TEST: 10}


def test_the_earliest_of_equal_steps_wins():
    frame = evaluations({30: (1, 0, 1, 0), 10: (0, 0, 0, 0), 20: (1, 0, 1, 0)})
    assert stop_step(frame, Stop.ORACLE) == 20


def test_a_step_without_test_rows_cannot_be_chosen():
    frame = evaluations({10: (1, 0, 1, 0), 20: (1, 0, 0, 0)}).filter(
        ~((pl.col("step") == 10) & (pl.col("split") == "test"))
    )
    assert available_steps(frame) == [20]
    assert stop_step(frame, Stop.ORACLE) == 20


@given(st.data())
def test_the_rules_equal_brute_force(data):
    bits = st.lists(st.integers(0, 1), min_size=4, max_size=4)
    gold, weak = data.draw(bits), data.draw(bits)
    predictions = data.draw(st.dictionaries(st.integers(1, 50), bits, min_size=1, max_size=6))
    for stop, target, split in (
        (Stop.WEAK, weak, "validation"),
        (Stop.ORACLE, gold, "validation"),
        (Stop.ORACLE_TEST, gold, "test"),
    ):
        best, best_step = -1, None
        for step in sorted(predictions):
            right = sum(p == t for p, t in zip(predictions[step], target, strict=True))
            if right > best:
                best, best_step = right, step
        assert stop_step(evaluations(predictions, gold=gold, split=split), stop, labels(weak)) == best_step


def source(p, prediction=(1, 1, 0, 0)):
    final = pl.DataFrame(
        {"example_id": IDS, "split": "validation", "step": 20, "prediction": prediction, "p": p},
        schema_overrides={"p": pl.Float32, "step": pl.Int64},
    )
    return pl.concat([final, final.with_columns(step=pl.lit(10, pl.Int64), p=pl.lit(0.9, pl.Float32))])


def test_weak_labels_are_hard_above_one_half_at_the_last_step():
    assert weak_labels(source([0.51, 0.5, 0.49, 1.0]))["label"].to_list() == [1, 0, 0, 1]


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_rows_without_p_carry_no_label_unless_none_has_p(nothing):
    assert weak_labels(source([0.9, nothing, 0.1, nothing])).rows() == [("e0", 1), ("e2", 0)]
    assert weak_labels(source([nothing] * 4))["label"].to_list() == [1, 1, 0, 0]


def test_what_is_lacking_is_said():
    with pytest.raises(analysis.AnalysisError, match="both validation and test, and there is none"):
        stop_step(evaluations({10: (0, 0, 0, 0)}).filter(split="test"), Stop.WEAK, labels([0, 0, 0, 0]))
    with pytest.raises(analysis.AnalysisError, match="labels that the student learned from"):
        stop_step(evaluations({10: (0, 0, 0, 0)}), Stop.WEAK)
    with pytest.raises(analysis.AnalysisError, match="some have none"):
        stop_step(evaluations({10: (0, 0, 0, 0)}), Stop.WEAK, labels([0, 0, 0, 0]).clear())


@pytest.fixture
def stopped_store(writer, small_world):
    """Naive students counted at their last step and by each rule."""
    writer.world(small_world(methods=("naive",), seeds=1, n_other=60, evaluations=5))
    path = writer.root / "sweeps" / "sweep" / "manifest.parquet"
    last = pl.read_parquet(path).with_columns(stop=pl.lit("last"), oracle=pl.lit(False))
    rules = [
        last.with_columns(method=pl.lit(name), stop=pl.lit(stop), oracle=pl.lit(stop != "weak"))
        for stop, name in (
            ("weak", "early_stop(weak)"),
            ("oracle", "early_stop(oracle) [oracle]"),
            ("oracle_test", "early_stop(oracle_test) [oracle]"),
        )
    ]
    pl.concat([last, *rules]).write_parquet(path)
    return writer.root


def test_pairs_are_scored_at_the_step_that_their_rule_chooses(stopped_store):
    results = load_results(stopped_store)
    assert results.problems == ()
    assert results.pairs.height == 3 * 4
    for row in results.pairs.to_dicts():
        frame = results.evaluations(row["student_id"])
        weak = weak_labels(results.evaluations(row["supervisor_id"]))
        assert row["stop_step"] == stop_step(frame, Stop(row["stop"]), weak)
        test = frame.filter(pl.col("split") == "test", pl.col("step") == row["stop_step"])
        assert row["student_acc"] == pytest.approx(test["correct"].mean())
    by_stop = {stop: rows for (stop,), rows in results.pairs.sort("weak", "strong").group_by("stop")}
    assert by_stop["last"]["stop_step"].unique().to_list() == [50]
    assert (by_stop["oracle_test"]["student_acc"] >= by_stop["last"]["student_acc"]).all()
    assert (by_stop["oracle_test"]["stop_step"] < 50).all()  # this world overfits


def test_one_student_in_several_pairs_keeps_its_gap_and_its_final_score(stopped_store):
    results = load_results(stopped_store)
    estimates = analysis.estimate(results, analysis.Options(draws=100))
    assert estimates.pairs.group_by("weak", "strong").agg(pl.col("gap").n_unique())["gap"].to_list() == [1] * 3
    assert set(estimates.methods.filter("oracle")["method"]) == {
        "early_stop(oracle) [oracle]",
        "early_stop(oracle_test) [oracle]",
    }
    student = results.runs.filter(kind="transfer").row(0, named=True)
    final = results.predictions(student["run_id"]).filter(split="test")
    assert student["accuracy"] == pytest.approx(final["correct"].mean())


def test_a_student_that_cannot_be_stopped_leaves_its_other_pairs(stopped_store):
    path = stopped_store / "sweeps" / "sweep" / "manifest.parquet"
    rows = pl.read_parquet(path)
    rows.with_columns(stop=pl.col("stop").replace("weak", "luck")).write_parquet(path)
    results = load_results(stopped_store)
    assert results.pairs.height == 3 * 3
    assert results.missing["method"].unique().to_list() == ["early_stop(weak)"]
    assert results.missing["student_state"].unique().to_list() == ["without a step to stop at"]
    assert all("the rule 'luck'; the known rules: last, weak" in problem for problem in results.problems)


def test_the_report_explains_the_mark_of_oracles_and_keeps_it(stopped_store):
    results = load_results(stopped_store)
    lines = analysis.summary(results, analysis.estimate(results, analysis.Options(draws=100)))
    (explained,) = [line for line in lines if line.startswith("[oracle] marks")]
    assert "ground truth" in explained
    assert any(line.startswith("early_stop(oracle) [oracle]: mean PGR") for line in lines)


def test_without_an_oracle_nothing_explains_the_mark(writer, small_world):
    writer.world(small_world(seeds=1))
    results = load_results(writer.root)
    assert not any("[oracle]" in line for line in analysis.summary(results, analysis.estimate(results)))


def test_equal_steps_of_all_rules_when_there_is_one_evaluation(writer, small_world):
    writer.world(small_world(methods=("naive",), seeds=1, rungs=2, n_other=20, evaluations=1))
    path = writer.root / "sweeps" / "sweep" / "manifest.parquet"
    pl.read_parquet(path).with_columns(stop=pl.lit("weak")).write_parquet(path)
    pairs = load_results(writer.root).pairs
    assert pairs["stop_step"].to_list() == [10]
    assert np.isfinite(pairs["student_acc"].to_numpy()).all()
