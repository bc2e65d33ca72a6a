"""Figures of fitted curves: what is drawn, where, and what the caption says."""

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from analysis.plots.scaling import MAX_PANELS, MAX_TOGETHER, plot_curves
from analysis.plots.style import render
from analysis.scaling.surfaces import fit2
from analysis.scaling.tables import Fits, fit

X = np.geomspace(1e18, 1e21, 6)


def curves(count: int, **ask) -> Fits:
    frames = [pl.DataFrame({"k": [f"m{k:02d}"] * 6, "x": X, "y": (40 + k) * X**-0.08}) for k in range(count)]
    return fit(pl.concat(frames), **({"x": "x", "y": "y", "by": "k", "family": "power", "draws": 20} | ask))


def words(figure: Figure) -> str:
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    texts += [axes.get_title(loc="left") for axes in figure.axes]
    return " ".join([*texts, *(text.get_text() for text in figure.texts)]).replace("\n", " ")


def test_held_out_points_are_hollow_and_the_curve_beyond_is_dashed():
    figure = plot_curves(curves(1, holdout_largest=2))
    (ax,) = figure.axes
    lines = {(line.get_linestyle(), line.get_marker()): line for line in ax.lines if len(line.get_xdata()) > 2}
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white" and line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in hollow] == [list(X[-2:])]
    solid, dashed = lines["-", "None"], lines["--", "None"]
    assert max(solid.get_xdata()) == pytest.approx(X[3])
    assert min(dashed.get_xdata()) == max(solid.get_xdata())
    assert max(dashed.get_xdata()) == pytest.approx(X[-1])
    assert "to 16 × the largest x fitted" in words(figure)  # 1000^(2/5)
    assert "Held out: RMSLE" in words(figure)


def test_labels_of_large_x_are_powers_of_ten():
    (ax,) = plot_curves(curves(1)).axes
    formatter = ax.xaxis.get_major_formatter()
    assert [formatter(v, 0) for v in (1e18, 2e18, 5000.0, 0.5)] == ["$10^{18}$", r"$2 \times 10^{18}$", "5,000", "0.5"]
    assert ax.get_xscale() == "log"


@pytest.mark.parametrize(("count", "panels"), [(2, 1), (MAX_TOGETHER, 1), (MAX_TOGETHER + 1, 10), (30, MAX_PANELS)])
def test_few_curves_share_a_panel_and_many_get_one_each(count, panels):
    figure = plot_curves(curves(count))
    drawn = [ax for ax in figure.axes if ax.lines]
    assert len(drawn) == panels
    assert ("The first 24 of 30 curves are shown" in words(figure)) == (count > MAX_PANELS)
    for name in ("m00", "m01"):
        assert name in words(figure)


def test_axes_given_are_drawn_into_and_returned():
    ax = Figure().subplots()
    assert curves(3).plot(ax) is ax
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["m00", "m01", "m02"]


def test_refused_curves_are_counted_and_their_points_shown():
    bad = pl.DataFrame({"k": ["z"], "x": [1e18], "y": [3.0]})
    good = pl.DataFrame({"k": ["a"] * 6, "x": X, "y": X**-0.08})
    fits = fit(pl.concat([good, bad]), x="x", y="y", by="k", family="power", draws=20)
    assert "1 of 2 curves could not be fitted" in words(plot_curves(fits))
    assert render(plot_curves(fits))["png"][:4] == b"\x89PNG"


def test_curves_whose_rows_are_no_points_are_named_in_the_caption():
    bad = pl.DataFrame({"k": ["z"] * 3, "x": [-1.0, 0.0, 1.0], "y": [3.0, 2.0, 1.0]})
    good = pl.DataFrame({"k": ["a"] * 6, "x": X, "y": X**-0.08})
    fits = fit(pl.concat([good, bad]), x="x", y="y", by="k", family="power", draws=20)
    assert [curve.points is None for curve in fits] == [False, True]
    caption = words(plot_curves(fits))
    assert "Not drawn, as the rows of 1 of 2 curves are not points: z." in caption
    assert "could not be fitted" not in caption


def test_the_same_fits_are_the_same_bytes_in_every_format():
    first, second = (render(plot_curves(curves(2, holdout_largest=1), to=1e23)) for _ in range(2))
    assert set(first) == {"png", "svg", "pdf"}
    assert first == second


def test_values_over_decades_are_on_a_log_axis_and_others_are_not():
    steep = fit(pl.DataFrame({"x": X, "y": 1e18 / X * 100}), x="x", y="y", family="power", draws=20)
    assert plot_curves(steep).axes[0].get_yscale() == "log"
    assert plot_curves(curves(1)).axes[0].get_yscale() == "linear"


def test_a_surface_is_drawn_with_its_points_residuals_and_scores():
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(1e9, 1e11, 5)))
    frame = pl.DataFrame({"N": n, "D": d, "loss": 1.8 + 480 * n**-0.35 + 2000 * d**-0.37, "k": ["a"] * 25})
    frame = pl.concat([frame, frame.head(2).with_columns(k=pl.lit("b"))])
    surfaces = fit2(frame, x=("N", "D"), y="loss", by="k", train_where="N<9e9", draws=20)
    figure = surfaces.plot()
    lines, residuals = figure.axes[:2]
    drawn = {line.get_markerfacecolor() == "white": line for line in lines.lines}
    assert (drawn[False].get_xdata().size, drawn[True].get_xdata().size) == (20, 5)
    assert (lines.get_xscale(), lines.get_yscale(), residuals.get_xscale()) == ("log", "log", "log")
    left = next(line for line in residuals.lines if line.get_xdata().size == 20)
    assert np.abs(left.get_ydata()).max() < 1e-4  # shares of the value, of a surface without noise
    assert left.get_xdata().max() == pytest.approx((n * d)[n < 9e9].max())
    assert "a: additive_power on 20 points" in words(figure)
    assert "5 held out: RMSLE" in words(figure)
    assert "b: not fitted" in words(figure)
    assert set(render(figure)) == {"png", "svg", "pdf"}
