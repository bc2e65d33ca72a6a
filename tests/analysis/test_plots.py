from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analysis
from analysis import plots


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.2))
def test_labels_keep_their_order_and_their_distance(wanted, distance):
    wanted = sorted(wanted)
    placed = plots.spread(wanted, distance)
    assert len(placed) == len(wanted)
    assert all(b - a >= distance - 1e-9 for a, b in pairwise(placed))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_labels_stay_on_the_axis_while_there_is_room(wanted):
    placed = plots.spread(sorted(wanted), 0.1)
    assert placed[0] >= -1e-9
    assert placed[-1] <= 1 + 1e-9


def test_labels_that_are_far_apart_stay_where_they_are():
    assert plots.spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])


def test_labels_that_collide_move_apart_evenly():
    assert plots.spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])


def frames(store):
    estimates = analysis.estimate(analysis.load(store), analysis.Options(draws=100))
    section = estimates.sections[0][0].section
    curves = estimates.of(section, analysis.trends(estimates).curves)
    return estimates, estimates.pairs, estimates.ladder, curves


def test_a_figure_is_the_same_file_each_time(writer, small_world):
    writer.world(small_world())
    estimates, pairs, ladder, _ = frames(writer.root)
    caption = plots.interval_caption(pairs, estimates.options)
    assert plots.render(plots.plot_pgr_map(pairs, ladder, caption)) == plots.render(
        plots.plot_pgr_map(pairs, ladder, caption)
    )


def test_the_caption_gives_n_and_warns_of_few_seeds(writer, small_world):
    writer.world(small_world())
    estimates, pairs, _, _ = frames(writer.root)
    caption = plots.interval_caption(pairs, estimates.options)
    assert "2 seeds on 400 test examples" in caption
    assert "95% intervals of 100 joint resamples" in caption
    assert "fewer than 5 seeds" in caption


def test_pairs_without_a_gap_are_marked_and_not_numbered(writer, small_world):
    writer.world(small_world(supervisor=(0.7, 0.7, 0.7), ceiling=(0.7, 0.7, 0.9), methods=("naive",)))
    _, pairs, ladder, _ = frames(writer.root)
    figure = plots.plot_pgr_map(pairs, ladder, "")
    words = [text.get_text() for text in figure.axes[0].texts]
    assert words.count("no gap") == pairs.filter(~pl.col("has_gap")).height > 0
    assert sum(" to " in word for word in words) == pairs.filter(pl.col("has_gap")).height


def test_models_without_compute_or_size_are_named_on_the_axis(writer, small_world):
    writer.world(small_world(methods=("naive",)))
    _, pairs, ladder, curves = frames(writer.root)
    unknown = ladder.with_columns(x=10.0 ** (pl.col("rung") + 1), x_axis=pl.lit("rung"))
    figure = plots.plot_pgr(pairs, unknown, curves.clear(), "")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["rung1", "rung2"]
    assert figure.axes[0].get_xlabel() == "strong model"
