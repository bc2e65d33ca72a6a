import math
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analysis
from analysis import plots
from analysis.plots.marks import at_least, dodge, log_ticks, minor_ticks, most_bars, told
from analysis.plots.pgr import two_digits
from analysis.plots.style import direct_labels, wrapped
from analysis.plots.tasks import supervisors_in_order
from analysis.plots.training import evenly
from analysis.results import load as load_results


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
    estimates = analysis.estimate(load_results(store), analysis.Options(draws=100))
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


def test_a_figure_is_rendered_as_picture_and_as_vectors(writer, small_world):
    writer.world(small_world(methods=("naive",), seeds=1))
    _, pairs, ladder, curves = frames(writer.root)
    figure = plots.plot_accuracy(pairs, ladder, curves, "")
    rendered = plots.render(figure)
    assert rendered["png"].startswith(b"\x89PNG")
    assert rendered["pdf"].startswith(b"%PDF")
    assert b"<svg" in rendered["svg"][:600]
    width = int.from_bytes(rendered["png"][16:20], "big")  # of the IHDR chunk
    assert width == int(figure.get_figwidth() * 160)


def test_the_caption_gives_n_and_warns_of_few_seeds(writer, small_world):
    writer.world(small_world())
    estimates, pairs, _, _ = frames(writer.root)
    caption = plots.interval_caption(pairs, estimates.options)
    assert "2 seeds on 400 test examples" in caption
    assert "95 % intervals of 100 joint resamples" in caption
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


MANY = (
    "naive",
    *(f"method{i:02}(strength=0.{i})" for i in range(1, 10)),
    "confidence(max_weight=0.75, warm_up=0.1), early_stop(rule=oracle) [oracle]",
    "early_stop(rule=oracle_test) [oracle]",
)


def test_the_comparison_shows_every_method_sorted_with_its_whole_label(writer, small_world):
    writer.world(small_world(methods=MANY, seeds=1))
    estimates, _, _, _ = frames(writer.root)
    figure = plots.plot_methods(estimates.methods, estimates.differences, "")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    shown = [label.replace("\n", "").replace(" ", "") for label in labels]
    mean = estimates.methods.filter(pl.col("statistic") == "mean").sort("pgr", descending=True)
    best_first = ["naive", *(method for method in mean["method"] if method != "naive")]
    assert shown == [method.replace(" ", "") for method in best_first]
    assert sum(label.endswith("[oracle]") for label in labels) == 2
    assert max(len(line) for label in labels for line in label.split("\n")) <= 34


def faces(ax, method_row):
    """Fill of the points at the height of a method."""
    return {
        line.get_markerfacecolor()
        for line in ax.lines
        if line.get_marker() in ("o", "D") and abs(float(line.get_ydata()[0]) - method_row) < 0.1
    }


def test_methods_that_looked_at_ground_truth_are_hollow(writer, small_world):
    writer.world(small_world(methods=("naive", "stopped [oracle]"), seeds=1))
    estimates, _, _, _ = frames(writer.root)
    left, right = plots.plot_methods(estimates.methods, estimates.differences, "").axes
    ticks = dict(zip([t.get_text() for t in left.get_yticklabels()], left.get_yticks(), strict=True))
    for ax in (left, right):
        assert faces(ax, ticks["stopped [oracle]"]) == {"white"}
        assert "white" not in faces(ax, ticks["naive"])


def test_a_single_method_is_compared_with_nothing(writer, small_world):
    writer.world(small_world(methods=("naive",), seeds=1))
    estimates, _, _, _ = frames(writer.root)
    assert len(plots.plot_methods(estimates.methods, estimates.differences, "").axes) == 1


def test_six_methods_get_panels_the_reference_first_and_oracles_last():
    shown = plots.shown_methods(["z", "a [oracle]", "naive", "b"])
    assert shown == ["naive", "b", "z", "a [oracle]"]
    assert plots.shown_methods(MANY) == list(MANY[:6])


@given(st.lists(st.text("ab(),= ", min_size=1, max_size=12), min_size=1, max_size=6).map("".join), st.integers(8, 40))
def test_a_wrapped_label_loses_nothing_but_blanks(label, width):
    text = wrapped(label, width)
    assert text.replace("\n", "").replace(" ", "") == label.replace(" ", "")


def test_labels_break_after_blanks_commas_and_brackets():
    assert wrapped("confidence(max_weight=0.75, warm_up=0.1)", 28) == "confidence(max_weight=0.75,\nwarm_up=0.1)"
    assert wrapped("confidence(max_weight=0.75)", 20) == "confidence(\nmax_weight=0.75)"
    assert wrapped("short", 20) == "short"


@given(st.floats(-3, 30), st.floats(0.02, 12))
def test_labels_of_a_log_axis_are_in_the_frame_and_apart(start, decades):
    low, high = 10.0**start, 10.0 ** (start + decades)
    ticks = log_ticks(low, high)
    assert ticks
    assert all(low <= tick <= high for tick in ticks)
    assert all(math.log10(b / a) >= 0.19 * decades - 1e-9 for a, b in pairwise(ticks))


def test_minor_ticks_are_multiples_of_powers_of_ten_and_tenths_where_the_axis_is_short():
    assert minor_ticks(8e9, 2.5e10) == pytest.approx([8e9, 9e9, 1e10, 2e10])
    assert minor_ticks(1.95e9, 2.25e9) == pytest.approx([2.0e9, 2.1e9, 2.2e9])


def test_long_bars_do_not_squeeze_the_estimates():
    rows = {"d": [0.1, 0.0, -0.1] * 10, "d_low": [-0.2] * 29 + [-9.0], "d_high": [0.3] * 29 + [9.0]}
    low, high = most_bars(pl.DataFrame(rows), "d")
    assert (low, high) == pytest.approx((-0.72, 0.82))  # four bars of five, as much again, and the pad
    far = pl.DataFrame({"d": [5.0, None], "d_low": [4.9, None], "d_high": [5.1, None]})
    low, high = most_bars(far, "d")
    assert low < 0
    assert high > 5


def test_short_names_stand_at_their_lines_and_long_ones_in_a_legend(writer, small_world):
    assert direct_labels(["naive", "confidence"])
    assert not direct_labels(["naive", "confidence(max_weight=0.75)"])
    assert not direct_labels(["a", "b", "c", "d"])
    writer.world(small_world(methods=("naive",), seeds=1))
    _, pairs, ladder, curves = frames(writer.root)
    figure = plots.plot_accuracy(pairs, ladder, curves, "")
    assert figure.legends == []
    assert {text.get_text() for text in figure.axes[0].texts} == {"ceiling", "naive", "supervisor"}
    many = pairs.with_columns(method=pl.lit("confidence(max_weight=0.75)"))
    figure = plots.plot_accuracy(many, ladder, curves, "")
    assert figure.legends != []
    assert list(figure.axes[0].texts) == []


def test_methods_without_any_gap_have_no_empty_panel_but_are_named(writer, small_world):
    writer.world(small_world(methods=("naive", "other"), seeds=1))
    _, pairs, ladder, curves = frames(writer.root)
    none = pl.when(pl.col("method") == "other").then(None).otherwise("pgr")
    for figure in (
        plots.plot_pgr(pairs.with_columns(pgr=none), ladder, curves, ""),
        plots.plot_pgr_map(pairs.with_columns(pgr=none), ladder, ""),
    ):
        assert [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")] == ["naive"]
        assert any("gap: other." in " ".join(text.get_text().split()) for text in figure.texts)


def test_a_large_map_has_numbers_only():
    models = [f"m{i}" for i in range(10)]
    cells = [(i, j) for i in range(10) for j in range(i + 1, 10)]
    pairs = pl.DataFrame(
        [
            {"method": m, "weak": models[i], "strong": models[j], "weak_rung": i, "strong_rung": j, "pgr": 0.5}
            | {"pgr_low": 0.4, "pgr_high": 0.6}
            for m in ("a", "b", "c")
            for i, j in cells
        ]
    )
    figure = plots.plot_pgr_map(pairs, pl.DataFrame(), "")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.50"] * len(cells)
    assert figure.get_figwidth() < 14
    assert any("tables/pairs.csv" in text.get_text() for text in figure.texts)


def two_tasks(writer, small_world):
    for number, task in enumerate(("a", "b")):
        writer.world(small_world(task=task, methods=("naive",)), sweep=task, random_seed=number)
    estimates = analysis.estimate(load_results(writer.root), analysis.Options(draws=100))
    of = {
        grouped.section.task: (
            estimates.of(grouped.section, estimates.pairs),
            estimates.of(grouped.section, estimates.ladder),
        )
        for grouped, _ in estimates.sections
    }
    return estimates, of


def test_each_task_has_a_panel_with_its_ceiling_and_supervisors(writer, small_world):
    _, of = two_tasks(writer, small_world)
    figure = plots.plot_tasks(of, "naive", "")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["a", "b"]
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels == ["strong ceiling", "supervised by rung0", "rung1", "supervisor"]
    for ax, (pairs, ladder) in zip(figure.axes, of.values(), strict=True):
        drawn = {round(float(y), 9) for line in ax.lines for y in line.get_ydata()}
        for frame, name in ((pairs, "student_acc"), (ladder, "ceiling_acc"), (ladder, "supervisor_acc")):
            assert {round(value, 9) for value in frame[name].drop_nulls()} <= drawn
        low, high = ax.get_ylim()
        assert low < min(drawn) <= max(drawn) < high


def test_median_over_tasks_has_a_line_per_supervisor(writer, small_world):
    estimates, of = two_tasks(writer, small_world)
    median = estimates.tasks.filter((pl.col("statistic") == "median") & pl.col("weak").is_not_null())
    assert not median.is_empty()
    (ax,) = plots.plot_tasks_pgr(median, of["a"][1], "").axes
    drawn = {round(float(y), 9) for line in ax.lines if line.get_marker() == "o" for y in line.get_ydata()}
    assert drawn == {round(value, 9) for value in median["pgr"]}
    (empty,) = plots.plot_tasks_pgr(median.with_columns(pgr=pl.lit(None, pl.Float64)), of["a"][1], "").axes
    assert [text.get_text() for text in empty.texts] == ["no pair with a gap in any task"]


def test_supervisors_of_several_tasks_are_ordered_by_mean_rung():
    one = pl.DataFrame({"weak": ["s", "m", "m"], "weak_rung": [0, 1, 1]})
    other = pl.DataFrame({"weak": ["m", "s"], "weak_rung": [0, 2]})
    assert supervisors_in_order([one, other]) == ["m", "s"]


def test_a_narrow_log_axis_has_labels_between_powers_of_ten():
    assert log_ticks(1e9, 1e12) == pytest.approx([1e9, 1e10, 1e11, 1e12])
    assert log_ticks(2e9, 6e10) == pytest.approx([5e9, 1e10, 5e10])
    assert log_ticks(6.5e9, 8.5e9) == pytest.approx([7e9, 8e9])


@pytest.mark.parametrize("x", [[1e9, 1e10, 1e12], [1e9, 1.1e9, 1e12], [1e9]])
def test_bars_of_several_series_stand_apart_and_nearer_to_their_own_model(x):
    ladder = pl.DataFrame({"x": x})
    factors = [dodge(ladder, index, 5) for index in range(5)]
    assert all(b > a for a, b in pairwise(factors))
    assert factors[2] == pytest.approx(1)
    if len(x) > 1:
        assert (factors[-1] / factors[0]) < min(b / a for a, b in pairwise(x))


def test_a_derived_curve_is_drawn_only_where_its_band_is_narrower_than_the_gap():
    curve = pl.DataFrame({"x": [1.0, 2.0, 3.0], "y_low": [-3.0, 0.2, 0.3], "y_high": [4.0, 0.9, 0.8]})
    assert told(curve)["x"].to_list() == [2.0, 3.0]
    assert told(curve.head(2)).is_empty()


def test_limits_about_equal_values_are_widened():
    assert at_least((0.0, 1e-17), 1.0) == pytest.approx((-0.5, 0.5))
    assert at_least((-2.0, 3.0), 1.0) == (-2.0, 3.0)


def test_frames_without_a_gap_say_so_and_hide_no_rounding_errors(writer, small_world):
    writer.world(small_world(supervisor=(0.9, 0.9, 0.9), ceiling=(0.6, 0.6, 0.6), seeds=1))
    estimates, pairs, ladder, curves = frames(writer.root)
    figure = plots.plot_overview(pairs, ladder, curves, estimates.differences, "")
    assert [text.get_text() for ax in figure.axes[1:] for text in ax.texts] == ["no pair with a gap"] * 2
    equal = estimates.differences.with_columns(
        pl.lit(1e-17).alias(f"accuracy_difference{b}") for b in ("", "_low", "_high")
    )
    low, high = plots.plot_differences(equal, "").axes[1].get_ylim()
    assert high - low == pytest.approx(1.0)


def test_a_pair_far_out_is_an_arrow_at_the_frame_with_its_number(writer, small_world):
    writer.world(small_world(supervisor=(0.6, 0.9, 0.9), ceiling=(0.6, 0.9, 0.9), methods=("naive",), seeds=1))
    _, pairs, ladder, curves = frames(writer.root)
    far = pairs.with_columns(pgr=pl.when(pl.col("strong") == "rung1").then(-7.126).otherwise("pgr"))
    (ax,) = plots.plot_pgr(far, ladder, curves.clear(), "").axes
    assert ax.get_ylim()[0] == -1.25
    assert "-7.13" in [text.get_text() for text in ax.texts]
    assert [line.get_marker() for line in ax.lines].count("v") == 1


def test_a_value_that_rounds_to_zero_has_no_sign():
    assert [two_digits(v) for v in (-0.001, 0.001, -0.006)] == ["0.00", "0.00", "-0.01"]


def test_students_are_chosen_evenly_with_both_ends():
    assert evenly(list("abcde"), 3) == ["a", "c", "e"]
    assert evenly(list("abcdef"), 3)[::2] == ["a", "f"]
    assert evenly(["a", "b"], 3) == ["a", "b"]


def test_differences_with_methods_that_lack_pairs_can_be_drawn(writer, small_world):
    writer.world(small_world(methods=("naive", "a", "b"), seeds=1))
    path = writer.root / "sweeps" / "sweep" / "manifest.parquet"
    rows = pl.read_parquet(path)
    # method a lacks the widest pair, so that its size gap is in nothing of it
    rows.filter(
        ~((pl.col("method") == "a") & (pl.col("weak") == "rung0") & (pl.col("strong") == "rung2"))
    ).write_parquet(path)
    estimates, _, _, _ = frames(writer.root)
    figure = plots.plot_differences(estimates.differences, "", ["naive", "a", "b"])
    accuracy = [label.get_text().splitlines()[-1] for label in figure.axes[1].get_xticklabels()]
    assert accuracy == ["n=2\u20133", "n=2", "n=1"]
