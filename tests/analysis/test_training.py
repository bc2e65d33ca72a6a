import polars as pl
import pytest

import analysis
from analysis import plots
from analysis.stopping import Stop, stop_step, weak_labels


@pytest.fixture(scope="module")
def courses(tmp_path_factory, store_writer, small_world):
    writer = store_writer(tmp_path_factory.mktemp("training"))
    writer.world(small_world(n_other=80, evaluations=4))
    results = analysis.load(writer.root)
    estimates = analysis.estimate(results, analysis.Options(draws=100))
    return results, estimates, analysis.training(results, estimates)


def at(results, run_id, step):
    return results.evaluations(run_id).filter(split="test", step=step).sort("example_id")


def test_courses_are_those_of_the_weakest_supervisor_at_every_evaluation(courses):
    _, _, frame = courses
    assert frame["weak"].unique().to_list() == ["rung0"]
    assert sorted(frame["strong"].unique()) == ["rung1", "rung2"]
    steps = frame.filter(point="step")
    assert steps["step_fraction"].unique().sort().to_list() == [0.25, 0.5, 0.75, 1.0]
    assert steps.height == 2 * 2 * 4  # students, methods, evaluations


def test_accuracy_and_agreement_are_means_over_seeds(courses):
    results, _, frame = courses
    row = frame.filter(point="step", strong="rung2", method="naive", step_fraction=0.5).row(0, named=True)
    pairs = results.pairs.filter(weak="rung0", strong="rung2", method="naive")
    accuracy, agreement = [], []
    for pair in pairs.to_dicts():
        student = at(results, pair["student_id"], 20)
        supervisor = at(results, pair["supervisor_id"], 40)
        accuracy.append(student["correct"].mean())
        agreement.append((student["prediction"] == supervisor["prediction"]).mean())
    assert row["accuracy"] == pytest.approx(sum(accuracy) / 2)
    assert row["agreement"] == pytest.approx(sum(agreement) / 2)
    assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"]
    assert row["supervisor_acc"] == pytest.approx(pairs["weak_acc"].mean())
    assert row["ceiling_acc"] == pytest.approx(pairs["ceiling_acc"].mean())
    assert (row["n_seeds"], row["n_test"]) == (2, 400)


def test_the_last_evaluation_is_what_the_pairs_are_scored_by(courses):
    _, estimates, frame = courses
    last = frame.filter(point="step", step_fraction=1.0)
    joined = last.join(estimates.pairs, on=["method", "weak", "strong"], suffix="_of_pair")
    assert joined.height == 4
    assert joined["accuracy"].to_list() == pytest.approx(joined["student_acc"].to_list())
    assert joined["agreement"].to_list() == pytest.approx(joined["agreement_of_pair"].to_list())


@pytest.mark.parametrize("stop", [Stop.WEAK, Stop.ORACLE])
def test_marks_are_where_each_seed_would_stop(courses, stop):
    results, _, frame = courses
    row = frame.filter(point=stop.value, strong="rung1", method="naive").row(0, named=True)
    accuracy, fraction = [], []
    for pair in results.pairs.filter(weak="rung0", strong="rung1", method="naive").to_dicts():
        weak = weak_labels(results.evaluations(pair["supervisor_id"]))
        step = stop_step(results.evaluations(pair["student_id"]), stop, weak)
        accuracy.append(at(results, pair["student_id"], step)["correct"].mean())
        fraction.append(step / 40)
    assert row["accuracy"] == pytest.approx(sum(accuracy) / 2)
    assert row["step_fraction"] == pytest.approx(sum(fraction) / 2)


def test_two_evaluations_are_no_course(writer, small_world):
    writer.world(small_world(seeds=1))
    results = analysis.load(writer.root)
    assert analysis.training(results, analysis.estimate(results, analysis.Options(draws=100))).is_empty()


def test_without_validation_rows_there_are_courses_but_no_marks(writer, small_world):
    writer.world(small_world(seeds=1, evaluations=3))
    results = analysis.load(writer.root)
    frame = analysis.training(results, analysis.estimate(results, analysis.Options(draws=100)))
    assert frame["point"].unique().to_list() == ["step"]


def test_methods_stopped_early_have_no_course_of_their_own(writer, small_world):
    writer.world(small_world(seeds=1, evaluations=3, n_other=30))
    path = writer.root / "sweeps" / "sweep" / "manifest.parquet"
    stop = pl.when(pl.col("method") == "naive").then(pl.lit("last")).otherwise(pl.lit("weak"))
    pl.read_parquet(path).with_columns(stop=stop).write_parquet(path)
    results = analysis.load(writer.root)
    frame = analysis.training(results, analysis.estimate(results, analysis.Options(draws=100)))
    assert frame["method"].unique().to_list() == ["naive"]


def test_the_figure_has_levels_courses_and_marks(courses):
    _, _, frame = courses
    figure = plots.plot_training(frame, ["naive", "confidence(max_weight=0.75)"], "")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["student rung1", "student rung2", "", ""]
    top, bottom = figure.axes[0], figure.axes[2]
    markers = [line.get_marker() for line in top.lines]
    assert (markers.count("v"), markers.count("*"), markers.count("o")) == (2, 2, 2)
    assert len(top.lines) - len(bottom.lines) == 2  # supervisor and ceiling
    low, high = top.get_ylim()
    shown = frame.filter(strong="rung1")
    assert low < min(shown["supervisor_acc"]) <= max(shown["ceiling_acc"]) < high
