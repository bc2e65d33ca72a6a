"""A search as its files tell it: tables of candidates, plots, and what happens when something is not there."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import tuning
from analysis.errors import AnalysisError
from analysis.tuning.candidates import (
    axis_values,
    best_candidates,
    categories_of,
    chain_values,
    chains,
    most_important,
    progress,
    two_to_show,
)
from analysis.tuning.reading import TRIALS_SCHEMA, StudyFiles, read_tuning, settings_in_words, shown
from tests.analysis.tuning_files import SPACE, made_up, study, trial, write_search


@pytest.fixture
def hand_made(tmp_path):
    """Three complete candidates, one stopped, one failed, one under way."""
    rows = [
        trial(0, "complete", 0.80, {"method.max_weight": 0.5, "method.chain": []}, order=1),
        trial(1, "pruned", None, {"method.max_weight": 0.9, "method.chain": ["rung1"]}, order=0, value_so_far=0.95),
        trial(2, "failed", None, {"method.max_weight": 0.1}, order=2, new_work=None),
        trial(3, "complete", 0.78, {"method.max_weight": 0.2, "method.chain": ["rung2", "rung1"][::-1]}, order=4),
        trial(4, "complete", 0.84, {"method.max_weight": 0.7, "method.chain": []}, order=3),
        trial(5, "running", None, {}, order=None, new_work=None),
    ]
    scores = [(0, 0, 0.7), (0, 1, 0.9), (4, 0, 0.8), (4, 1, 0.88), (3, 0, 0.78)]
    entry = study(rows, scores, [("value", "method.chain", 0.7)], best=4, default=0)
    return read_tuning(str(write_search(tmp_path, entry)))


def test_progress_is_by_end_and_only_complete_candidates_are_best(hand_made):
    frame = progress(hand_made.studies[0])
    assert frame["number"].to_list() == [1, 0, 2, 4, 3]  # by `order`; what is under way has not ended
    assert frame["place"].to_list() == [1, 2, 3, 4, 5]
    assert frame["best"].to_list() == [None, 0.80, 0.80, 0.84, 0.84]
    assert frame["seen"].to_list() == [0.95, 0.80, None, 0.84, 0.78]
    assert frame["work"].to_list() == [1e10, 2e10, 2e10, 3e10, 4e10]


def test_best_candidates_are_compared_with_the_default_on_common_instances(hand_made):
    frame = best_candidates(hand_made.studies[0], hand_made.parameters)
    assert frame["number"].to_list() == [4, 0, 3]
    winner, default, last = frame.to_dicts()
    assert winner["spread"] == pytest.approx(0.08 / np.sqrt(2))
    assert winner["minus_default"] == pytest.approx((0.1 - 0.02) / 2)
    assert (winner["n_better"], winner["n_common"]) == (1, 2)
    assert (default["minus_default"], default["is_default"]) == (None, True)
    assert (last["spread"], last["n_common"], last["minus_default"]) == (None, 1, pytest.approx(0.08))
    assert (winner["method.chain"], last["method.chain"], winner["method.labels"]) == ("none", "rung1, rung2", None)
    assert best_candidates(hand_made.studies[0], hand_made.parameters, 1)["number"].to_list() == [4]


def test_the_winner_of_the_study_stays_first_where_another_has_the_same_value(tmp_path):
    rows = [trial(0, "complete", 0.8), trial(1, "complete", 0.8)]
    files = read_tuning(str(write_search(tmp_path, study(rows, best=1))))
    assert best_candidates(files.studies[0], files.parameters)["number"].to_list() == [1, 0]


def test_chains_are_grouped_short_first(hand_made):
    frame = chains(hand_made.studies[0], hand_made.parameters)
    assert frame.select("chain", "length", "n").rows() == [("none", 0, 2), ("rung1, rung2", 2, 1)]
    assert frame["mean"].to_list() == pytest.approx([0.82, 0.78])
    assert frame["sd"].to_list() == [pytest.approx(0.04 / np.sqrt(2)), None]
    chain = next(p for p in hand_made.parameters if p.kind == "subset")
    assert chain_values(hand_made.studies[0], chain) == {"none": [0.80, 0.84], "rung1, rung2": [0.78]}


def test_parameters_by_importance_and_the_two_of_the_contour(hand_made, tmp_path):
    study_, parameters = hand_made.studies[0], hand_made.parameters
    assert [p.name for p in most_important(study_, parameters)][:2] == ["method.chain", "method.max_weight"]
    two = two_to_show(study_, parameters)
    assert two is not None
    assert [p.name for p in two] == ["method.max_weight", "finetune.learning_rate_factor"]  # numbers first
    assert two_to_show(study_, parameters[:1]) is None
    mixed = two_to_show(study_, (parameters[0], parameters[5]))
    assert mixed is not None
    assert [p.kind for p in mixed] == ["subset", "float"]


def test_axis_values_leave_out_who_lacks_the_parameter(hand_made):
    weight, chain = hand_made.parameters[0], hand_made.parameters[5]
    frame = axis_values(hand_made.studies[0], weight)
    assert frame.select("number", "x", "y").rows() == [(0, 0.5, 0.80), (1, 0.9, 0.95), (3, 0.2, 0.78), (4, 0.7, 0.84)]
    frame = axis_values(hand_made.studies[0], chain)
    assert frame.select("number", "x", "text").rows() == [
        (0, 0.0, "none"),
        (1, 1.0, "rung1"),
        (3, 2.0, "rung1, rung2"),
        (4, 0.0, "none"),
    ]


def test_categories_are_in_the_order_of_the_space_or_else_ascending(tmp_path):
    rows = [trial(n, "complete", 0.8, {"finetune.lora.rank": rank}) for n, rank in enumerate((16, 4, 8))]
    choice = {"name": "finetune.lora.rank", "kind": "choice", "values": [8, 16, 4]}
    files = read_tuning(str(write_search(tmp_path, study(rows), space=[choice, choice | {"values": None}])))
    assert [categories_of(files.studies[0], p) for p in files.parameters] == [["8", "16", "4"], ["4", "8", "16"]]


def test_values_as_people_write_them():
    assert [shown(v) for v in (0.123456, 3, "soft", True, None, [], ["a", "b"])] == [
        "0.1235",
        "3",
        "soft",
        "true",
        "null",
        "none",
        "a, b",
    ]
    words = settings_in_words({"method.chain": ["a"], "method.w": 0.5}, ["method.w"])
    assert words == "method.w = 0.5, method.chain = [a]"


def test_the_only_search_is_found_and_several_must_be_named(tmp_path):
    write_search(tmp_path, made_up(6))
    assert tuning.load(str(tmp_path)).files.tune_id == "search"
    write_search(tmp_path, made_up(6), tune_id="another")
    with pytest.raises(AnalysisError, match=r"name one search .* there are: another, search"):
        tuning.load(str(tmp_path))
    with pytest.raises(AnalysisError, match="has no search 'x' with a summary; its searches: another, search"):
        tuning.load(str(tmp_path), "x")
    with pytest.raises(AnalysisError, match="there is no storage"):
        tuning.load(str(tmp_path / "nowhere"))


def test_a_summary_that_cannot_be_read_is_named(tmp_path):
    write_search(tmp_path, made_up(6))
    path = tmp_path / "tuning" / "search" / "summary.json"
    path.write_text('{"studies": []')
    with pytest.raises(AnalysisError, match=r"tuning/search/summary\.json cannot be read"):
        tuning.load(str(tmp_path))
    path.write_text('{"studies": []}')
    with pytest.raises(AnalysisError, match="lacks 'space'"):
        tuning.load(str(tmp_path))


def test_missing_and_damaged_tables_become_problems(tmp_path):
    entry = made_up(6)
    write_search(tmp_path, entry)
    folder = tmp_path / entry[0]["folder"]
    (folder / "scores.parquet").unlink()
    (folder / "importances.parquet").write_bytes(b"nonsense")
    files = read_tuning(str(tmp_path))
    assert len(files.problems) == 2
    assert "scores.parquet is missing" in files.problems[0]
    assert "importances.parquet cannot be read" in files.problems[1]
    assert files.studies[0].scores.is_empty()


def test_frames_of_both_searches_say_whose_they_are(tmp_path):
    write_search(tmp_path, made_up(8), made_up(6, objective="oracle", metric="pgr"))
    search = tuning.load(str(tmp_path))
    assert dict(search.trials["objective"].value_counts().iter_rows()) == {"weak": 8, "oracle": 6}
    assert set(search.best.columns) >= {"objective", "rank", "method.max_weight", "minus_default"}
    assert repr(search) == f"Tuning({tmp_path}, search; weak by agreement: 8 candidates, oracle by pgr: 6 candidates)"


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("best", {"by": "flops"}),
        ("importances", {}),
        ("slice", {"parameter": "finetune.learning_rate_factor"}),
        ("contour", {}),
        ("contour", {"parameter": ("method.labels", "method.chain")}),
        ("contour", {"parameter": ("method.labels", "finetune.epochs")}),
        ("chains", {}),
        ("front", {}),
    ],
)
def test_every_kind_of_plot_draws_on_axes_of_ones_own(tmp_path, kind, more):
    from matplotlib.figure import Figure

    write_search(tmp_path, made_up())
    ax = Figure().subplots()
    drawn = tuning.load(str(tmp_path)).plot(kind, ax, **more)
    assert drawn is ax
    assert ax.lines or ax.collections or ax.patches or ax.images


def test_a_slice_shows_candidates_at_their_values_on_the_scale_of_the_parameter(tmp_path):
    write_search(tmp_path, made_up())
    search = tuning.load(str(tmp_path))
    ax = search.plot("slice", parameter="finetune.learning_rate_factor")
    assert (ax.get_xscale(), ax.get_ylabel()) == ("log", "agreement on validation")
    expected = search.best.sort("number")
    complete = next(line for line in ax.lines if line.get_marker() == "o")
    assert complete.get_xdata().tolist() == expected["finetune.learning_rate_factor"].to_list()
    assert complete.get_ydata().tolist() == expected["value"].to_list()
    star = next(line for line in ax.lines if line.get_marker() == "*")
    assert star.get_ydata().tolist() == [expected["value"].max()]


def test_plots_that_cannot_be_drawn_say_why(tmp_path):
    write_search(tmp_path, made_up(6), space=SPACE[:1])
    search = tuning.load(str(tmp_path))
    for arguments, words in (
        ({"kind": "pie"}, "no plot of 'pie'; take one of best"),
        ({"kind": "best", "by": "week"}, "by is 'week'"),
        ({"kind": "slice", "parameter": "x"}, "no parameter x in the space; there is: method.max_weight"),
        ({"kind": "chains"}, "no subset"),
        ({"kind": "contour"}, "a contour needs two parameters"),
        ({"kind": "contour", "parameter": "x"}, "is a pair of names"),
        ({"kind": "best", "objective": "oracle"}, "no search by objective 'oracle' here; there is: weak"),
        ({"kind": "fresh"}, "nothing was evaluated on fresh instances yet"),
    ):
        with pytest.raises(AnalysisError, match=words):
            search.plot(**arguments)


outcomes = st.tuples(
    st.sampled_from(["complete", "pruned", "failed", "running"]),
    st.floats(-1, 1, allow_nan=False),
    st.floats(0, 1e20),
)


@given(st.lists(outcomes, max_size=20), st.randoms(use_true_random=False))
def test_the_best_so_far_is_the_running_maximum_of_what_was_completed(found, random):
    rows = [
        trial(n, state, value if state == "complete" else None, new_work=work, value_so_far=value)
        for n, (state, value, work) in enumerate(found)
    ]
    order = list(range(len(rows)))
    random.shuffle(order)
    rows = [row | {"order": place} for row, place in zip(rows, order, strict=True)]
    files = StudyFiles(
        "weak", "agreement", "", False, None, (), None, {}, "", "", {}, None, "", *map(pl.DataFrame, ({}, {}, {}))
    )
    files = replace(files, trials=pl.DataFrame(rows, schema=TRIALS_SCHEMA))
    frame = progress(files)
    ended = sorted((row for row in rows if row["state"] != "running"), key=lambda row: row["order"])
    assert frame["number"].to_list() == [row["number"] for row in ended]
    for place, best in enumerate(frame["best"], start=1):
        complete = [row["value"] for row in ended[:place] if row["state"] == "complete"]
        assert best == max(complete, default=None)
    work = frame["work"].to_list()
    assert work == pytest.approx(np.cumsum([row["new_work"] for row in ended]).tolist())
