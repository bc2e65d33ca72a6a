import re

import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from polars.testing import assert_frame_equal

import analysis
from analysis.errors import AnalysisError
from analysis.notebook import QUANTITIES, SweepResults

CONFIDENCE = "confidence(max_weight=0.75)"


@pytest.fixture(scope="module")
def results(small_world, store_writer, tmp_path_factory):
    root = tmp_path_factory.mktemp("notebook") / "store"
    root.mkdir()
    store_writer(root).world(small_world(rungs=5, seeds=3, n_test=1200))
    return analysis.load(str(root), "sweep", options=analysis.Options(draws=200))


def test_a_store_is_loaded_by_path_and_sweep(results):
    assert isinstance(results, SweepResults)
    assert repr(results).startswith("SweepResults(")
    assert set(results.runs["kind"]) >= {"ground_truth", "transfer"}


def test_a_store_or_sweep_that_is_not_there_is_named(results, tmp_path):
    with pytest.raises(AnalysisError, match="nowhere"):
        analysis.load(str(tmp_path / "nowhere"))


def test_pairs_are_those_of_the_estimates(results):
    assert_frame_equal(results.pairs(), results.estimates.pairs)
    one = results.pairs(task="facts", method="naive", weak="rung0", strong="rung3")
    assert one.height == 1
    assert one.row(0, named=True)["pgr_low"] < one.row(0, named=True)["pgr_high"]


def test_pairs_by_seed_have_a_row_per_seed(results):
    chosen = results.pairs(method="naive", weak="rung0", strong="rung3", by_seed=True)
    assert sorted(chosen["seed"]) == [0, 1, 2]
    assert chosen["student_acc"].mean() == pytest.approx(
        results.pairs(method="naive", weak="rung0", strong="rung3")["student_acc"].item()
    )


@pytest.mark.parametrize("column", ["task", "method", "weak", "strong"])
def test_what_is_not_there_is_named_with_what_is(results, column):
    known = results.pairs()[column][0]
    with pytest.raises(AnalysisError) as error:
        results.pairs(**{column: "llama"})
    assert f"nothing has {column} 'llama'" in str(error.value)
    assert known in str(error.value)


def test_pgr_over_pairs_has_the_three_statistics(results):
    frame = results.pgr(method=CONFIDENCE)
    assert set(frame["statistic"]) == {"mean", "median", "of_means"}
    assert set(frame["method"]) == {CONFIDENCE}


def test_pgr_over_tasks_is_that_of_the_estimates(results):
    with pytest.raises(AnalysisError, match="there is only facts; over='pairs'"):
        results.pgr(over="tasks")
    with pytest.raises(AnalysisError, match="leave task out"):
        results.pgr(task="facts", over="tasks")


def test_pgr_over_something_else_is_refused(results):
    with pytest.raises(AnalysisError, match="'seeds'; take pairs or tasks"):
        results.pgr(over="seeds")


def test_compare_is_the_paired_difference_and_changes_sign_with_the_sides(results):
    forward, back = results.compare(CONFIDENCE), results.compare("naive", CONFIDENCE)
    assert forward["pgr_difference"].to_list() == pytest.approx((-back["pgr_difference"]).to_list())
    with pytest.raises(AnalysisError, match="no method 'distillation'"):
        results.compare("distillation")


def test_predictions_are_chosen_from_the_extrapolation(results):
    chosen = results.predict("student", task="facts", method="naive", weak="rung0")
    assert chosen.height > 0
    assert chosen.select("quantity", "method", "weak").unique().rows() == [("student", "naive", "rung0")]
    assert {"y_low_50", "y_high_95", "status"} <= set(chosen.columns)
    assert set(results.predict("ceiling")["quantity"]) == {"ceiling"}
    assert set(results.predict()["quantity"]) == {"pgr"}


def test_a_prediction_at_some_compute_lies_between_those_at_the_steps_beside_it(results):
    steps = results.predict("student", method="naive", weak="rung0").sort("x")
    x, y = steps["x"].to_numpy(), steps["y"].to_numpy()
    at = float(np.sqrt(x[3] * x[4]))
    found = results.predict("student", at=[x[3], at], method="naive", weak="rung0")
    assert found.columns == steps.columns
    assert found["y"].to_list() == pytest.approx([y[3], (y[3] + y[4]) / 2])
    assert found["reach"].to_list() == pytest.approx([x[3] / x[0], at / x[0]])
    assert found["status"].to_list() == steps["status"].to_list()[:2]


@pytest.mark.parametrize("share", [0.5, 20.0])
def test_a_prediction_outside_the_steps_is_refused_with_their_range(results, share):
    largest = results.predict("ceiling")["x"].min()
    with pytest.raises(AnalysisError, match=re.escape(f"predictions of ceiling go from {largest:.4g}")):
        results.predict("ceiling", at=share * largest)


def test_a_prediction_of_what_was_not_continued_says_what_was(results):
    with pytest.raises(AnalysisError, match="'loss' is not continued; take one of pgr, student, ceiling"):
        results.predict("loss")
    with pytest.raises(AnalysisError, match="naive under rung3: 1 student is too few"):
        results.predict("student", weak="rung3")  # one student only


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_quantity_is_drawn_on_axes_of_its_own(results, quantity):
    ax = results.plot(quantity)
    assert isinstance(ax, Axes)
    assert ax.has_data()
    assert ax.get_xlabel()
    words = {"accuracy": "test accuracy", "pgr": "PGR"}
    assert ax.get_ylabel() == words.get(quantity, "agreement")


def test_axes_that_are_passed_are_drawn_on_and_returned(results):
    left, right = Figure().subplots(1, 2)
    assert results.plot("accuracy", ax=right, weak="rung1") is right
    assert right.has_data()
    assert not left.has_data()


def test_a_plot_that_cannot_be_drawn_says_why(results):
    with pytest.raises(AnalysisError, match="no plot of 'loss'; take one of accuracy, pgr"):
        results.plot("loss")
    with pytest.raises(AnalysisError, match="name one task to plot; there are: facts"):
        results.plot(task="sums")
    with pytest.raises(AnalysisError, match="nothing has method 'distillation'"):
        results.plot("pgr", method="distillation")
    with pytest.raises(AnalysisError, match="nothing has weak 'rung9'"):
        results.plot("accuracy", weak="rung9")


def test_of_several_tasks_one_must_be_named_to_plot(small_world, writer):
    for task in ("facts", "sums"):
        writer.world(small_world(rungs=3, seeds=1, task=task), sweep=task)
    both = analysis.load(str(writer.root), options=analysis.Options(draws=100))
    with pytest.raises(AnalysisError, match="name one task to plot; there are: facts, sums"):
        both.plot("pgr")
    assert both.plot("pgr", task="sums").has_data()
    assert set(both.pairs(task="sums")["task"]) == {"sums"}


def test_what_takes_time_is_computed_once(results):
    assert results.estimates is results.estimates
    assert results.trends is results.trends
    assert results.extrapolation is results.extrapolation
    assert isinstance(results.trends.curves, pl.DataFrame)


def test_without_any_gap_predict_says_of_whom_and_why(small_world, writer):
    flat = (0.7,) * 4
    writer.world(small_world(rungs=4, supervisor=flat, ceiling=flat, seed_sd=0.0, methods=("naive",)))
    results = analysis.load(str(writer.root), options=analysis.Options(draws=100))
    with pytest.raises(AnalysisError) as error:
        results.predict("pgr")
    assert "naive under rung0: no student has a gap" in str(error.value)
    assert "naive under rung2: 1 student is too few" in str(error.value)
    with pytest.raises(AnalysisError, match="nothing has weak 'rung9'"):
        results.predict("pgr", weak="rung9")
    with pytest.raises(AnalysisError, match="'agreement' is not continued; take one of pgr, student, ceiling"):
        results.predict("agreement")
    assert results.predict("student", weak="rung0").height > 0
