import polars as pl
import pytest

import analysis
from analysis import plots
from analysis.results import load as load_results
from analysis.stopping import Stop, stop_step, weak_labels
from analysis.training import overfitting, peak_may_precede


@pytest.fixture(scope="module")
def courses(tmp_path_factory, store_writer, small_world):
    writer = store_writer(tmp_path_factory.mktemp("training"))
    writer.world(small_world(n_other=80, evaluations=4))
    results = load_results(writer.root)
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


def test_the_best_point_is_the_shared_evaluation_with_the_highest_mean_accuracy(courses):
    _, _, frame = courses
    for (_, _), rows in frame.group_by("method", "strong"):
        steps = rows.filter(point="step").sort("step_fraction")
        best = rows.filter(point="best").row(0, named=True)
        top = steps.sort("accuracy", "step_fraction", descending=[True, False]).row(0, named=True)
        assert (best["step_fraction"], best["accuracy"]) == (top["step_fraction"], top["accuracy"])
        assert best["drop"] == pytest.approx(top["accuracy"] - steps["accuracy"][-1], abs=1e-6)  # float32 means
        assert best["drop_low"] <= best["drop"] <= best["drop_high"]
        assert steps["drop"].null_count() == steps.height


def test_the_interval_of_a_drop_is_that_of_paired_differences(writer, small_world):
    writer.world(small_world(rungs=2, seeds=1, evaluations=4, methods=("naive",)))
    results = load_results(writer.root)
    frame = analysis.training(results, analysis.estimate(results))
    best = frame.filter(point="best").row(0, named=True)
    assert best["step_fraction"] < 1  # the course of this world peaks before its end
    student = results.pairs["student_id"][0]
    at_best, at_last = (at(results, student, step)["correct"] for step in (round(40 * best["step_fraction"]), 40))
    difference = at_best.cast(pl.Int8) - at_last.cast(pl.Int8)
    half = 1.96 * difference.std(ddof=0) / len(difference) ** 0.5
    assert best["drop"] == pytest.approx(difference.mean(), abs=1e-6)
    # 1,000 draws give the ends of an interval to about 5 % of its half width.
    assert best["drop_high"] - best["drop"] == pytest.approx(half, rel=0.2)
    assert best["drop"] - best["drop_low"] == pytest.approx(half, rel=0.2)


def course_rows(**drops):
    """Best and stopped points of one student by method, as (drop, low, high)."""
    rows = []
    for method, (best, chosen) in drops.items():
        for point, drop in (("best", best), ("oracle", chosen)):
            if drop is not None:
                values = dict(zip(("drop", "drop_low", "drop_high"), drop, strict=True))
                head = {"method": method, "weak": "w", "strong": "s", "strong_rung": 2, "point": point}
                rows.append(head | {"step_fraction": 0.25} | values)
    return pl.DataFrame(rows)


def test_overfitting_is_told_in_points_with_both_choices_of_the_step():
    rows = course_rows(naive=((0.04, 0.01, 0.07), (0.035, 0.0, 0.06)), other=((0.0, 0.0, 0.0), None))
    (text,) = overfitting(rows)
    assert "naive: 4.00 [1.00, 7.00] points lower at the end than at its best evaluation, at 25 % of it" in text
    assert "(3.50 [0.00, 6.00] if that is chosen by ground truth on validation)" in text
    assert "other: best at the last evaluation" in text
    assert "[oracle]" in text
    assert overfitting(rows.clear()) == []


def test_two_evaluations_are_no_course(writer, small_world):
    writer.world(small_world(seeds=1))
    results = load_results(writer.root)
    assert analysis.training(results, analysis.estimate(results, analysis.Options(draws=100))).is_empty()


def test_without_validation_rows_there_are_courses_but_no_marks(writer, small_world):
    writer.world(small_world(seeds=1, evaluations=3))
    results = load_results(writer.root)
    frame = analysis.training(results, analysis.estimate(results, analysis.Options(draws=100)))
    assert frame["point"].unique().sort().to_list() == ["best", "step"]


def test_methods_stopped_early_have_no_course_of_their_own(writer, small_world):
    writer.world(small_world(seeds=1, evaluations=3, n_other=30))
    path = writer.root / "sweeps" / "sweep" / "manifest.parquet"
    stop = pl.when(pl.col("method") == "naive").then(pl.lit("last")).otherwise(pl.lit("weak"))
    pl.read_parquet(path).with_columns(stop=stop).write_parquet(path)
    results = load_results(writer.root)
    frame = analysis.training(results, analysis.estimate(results, analysis.Options(draws=100)))
    assert frame["method"].unique().to_list() == ["naive"]


def test_the_figure_has_levels_courses_and_marks(courses):
    _, _, frame = courses
    figure = plots.plot_training(frame, ["naive", "confidence(max_weight=0.75)"], "")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["student rung1", "student rung2", "", ""]
    top, bottom = figure.axes[0], figure.axes[2]
    markers = [line.get_marker() for line in top.lines]
    assert (markers.count("v"), markers.count("*"), markers.count("o")) == (2, 2, 2)
    stars = [line for line in top.lines if line.get_marker() == "*"]
    assert {line.get_markerfacecolor() for line in stars} == {"white"}  # looked at ground truth
    best = frame.filter(strong="rung1", point="best", method="naive").row(0, named=True)
    assert [float(v) for v in (stars[0].get_xdata()[0], stars[0].get_ydata()[0])] == [
        best["step_fraction"],
        best["accuracy"],
    ]
    notes = [text.get_text() for text in top.texts]
    assert len(notes) == 2
    assert f"best \u2212 last: {100 * best['drop']:.1f} [" in notes[1]  # the first method on top
    assert len(top.lines) - len(bottom.lines) == 2  # supervisor and ceiling
    low, high = top.get_ylim()
    shown = frame.filter(strong="rung1")
    assert low < min(shown["supervisor_acc"]) <= max(shown["ceiling_acc"]) < high


@pytest.mark.parametrize(("best", "may"), [(0.25, True), (0.5, False), (1.0, False)])
def test_a_best_first_evaluation_leaves_the_peak_open(best, may):
    steps = [{"point": "step", "step_fraction": x} for x in (0.25, 0.5, 0.75, 1.0)]
    assert peak_may_precede(pl.DataFrame([*steps, {"point": "best", "step_fraction": best}])) == may
