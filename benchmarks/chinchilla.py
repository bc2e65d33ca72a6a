"""The surface L = E + A / N^alpha + B / D^beta on the points of Hoffmann et al. 2022, against published fits.

    python benchmarks/chinchilla.py --data DIR [--out FILE.md]

Prints the fit with errors from resampled points and from profiles, what the published parameters say about the same
points, and how exactly the solver recovers surfaces without noise. The loss is Hoffmann et al.'s: Huber on the
logarithm, delta 1e-3.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from scaling_data import chinchilla, chinchilla_subset, markdown

from analysis.plots.style import METHOD_COLOURS, render, style
from analysis.scaling.families import ADDITIVE_POWER
from analysis.scaling.fitting import Fit, fit_points
from analysis.scaling.losses import Loss, LossName
from analysis.scaling.points import Points, points_of
from analysis.scaling.uncertainty import parameter_intervals, profiles, resample, stretched

Array = np.ndarray
Surface = Mapping[str, float]
LOSS = Loss(LossName.HUBER_LOG, 1e-3)
NAMES = ("E", "A", "B", "alpha", "beta")
HOFFMANN: Surface = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
"""Hoffmann et al. 2022 (arXiv:2203.15556), appendix D.3, as printed."""
BESIROGLU: Surface = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
"""Besiroglu et al. 2024 (arXiv:2404.10102), table 1, as printed."""
BESIROGLU_ERRORS: Surface = {"E": 0.03, "A": 124.58, "B": 1293.23, "alpha": 0.02, "beta": 0.02}
"""Their standard errors, written down from memory of that table; the errors found here beside them are a check."""
BUDGET = 5.76e23
"""FLOPs of Gopher and Chinchilla."""


def fit_surface(frame: pl.DataFrame) -> Fit:
    """The surface over columns params and tokens, fitted to column loss."""
    return fit_points(points_of(frame, ["params", "tokens"], "loss"), ADDITIVE_POWER, LOSS)


def surface_at(surface: Surface, x: Array) -> Array:
    """Loss at x, shape (point, 2): parameters and tokens."""
    return surface["E"] + surface["A"] * x[:, 0] ** -surface["alpha"] + surface["B"] * x[:, 1] ** -surface["beta"]


def policy(surface: Surface, flops: float = BUDGET) -> dict[str, float]:
    """Compute-optimal training under C = 6 N D (Hoffmann et al. 2022, eq. 4).

    Returns:
        `a`: exponent of parameters in compute, N = G (C / 6)^a; `b` = 1 - a: that of tokens; `params`, `tokens`, and
        tokens per parameter (`ratio`) at a budget.
    """
    alpha, beta = surface["alpha"], surface["beta"]
    a = beta / (alpha + beta)
    scale = (alpha * surface["A"] / (beta * surface["B"])) ** (1 / (alpha + beta))
    params = scale * (flops / 6) ** a
    tokens = flops / 6 / params
    return {"a": a, "b": 1 - a, "params": params, "tokens": tokens, "ratio": tokens / params}


def policy_intervals(fit: Fit) -> dict[str, tuple[float, float, float]]:
    """The policy at `BUDGET` with 95 % intervals from the fit's draws: name -> (estimate, low, high)."""
    assert fit.draws is not None
    drawn = [policy(surface) for surface in _surfaces(fit)]
    found = {}
    for name, estimate in policy(fit.natural()).items():
        logs = np.log([draw[name] for draw in drawn])
        band = stretched(np.log(estimate), logs, fit.degrees, 0.95)
        found[name] = (estimate, float(np.exp(band.low)), float(np.exp(band.high)))
    return found


def _surfaces(fit: Fit) -> list[Surface]:
    assert fit.draws is not None
    columns = {p.name: p.compute(fit.draws, fit.axes) for p in fit.family.natural}
    return [{name: float(columns[name][i]) for name in NAMES} for i in range(fit.draws.shape[0])]


def standard_errors(fit: Fit) -> dict[str, float]:
    """Standard deviation of each parameter over the fit's draws."""
    assert fit.draws is not None
    return {p.name: float(np.std(p.compute(fit.draws, fit.axes), ddof=1)) for p in fit.family.natural}


def recovery(surface: Surface, x: Array) -> float:
    """Largest relative error of the five parameters fitted to a surface without noise at x, shape (point, 2)."""
    fit = fit_points(Points(x, surface_at(surface, x)), ADDITIVE_POWER, LOSS)
    return max(abs(value / surface[name] - 1) for name, value in fit.natural().items())


def grid(
    params: tuple[float, float] = (5e7, 1.6e10), tokens: tuple[float, float] = (2e8, 1e12), size: int = 9
) -> Array:
    """Parameters crossed with tokens, evenly in the logarithm: shape (size^2, 2)."""
    n, d = np.meshgrid(np.geomspace(*params, size), np.geomspace(*tokens, size))
    return np.stack([n.ravel(), d.ravel()], axis=-1)


def random_surfaces(count: int, random_seed: int = 0) -> list[Surface]:
    """Surfaces whose two falling terms are between 0.05 and 2 in the middle of `grid`, with exponents of 0.2 to 0.7."""
    rng = np.random.default_rng(random_seed)
    middle = np.exp(np.log(grid()).mean(axis=0))
    found = []
    for _ in range(count):
        alpha, beta = rng.uniform(0.2, 0.7, size=2)
        first, second = np.exp(rng.uniform(np.log(0.05), np.log(2), size=2))
        values = (rng.uniform(0.3, 3), first * middle[0] ** alpha, second * middle[1] ** beta, alpha, beta)
        found.append(dict(zip(NAMES, map(float, values), strict=True)))
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4f}"


def report(data: Path, draws: int) -> str:
    """All tables, in markdown."""
    sets = {
        "without the 5 highest losses": chinchilla(data),
        "all points": chinchilla(data, drop_highest=0),
        "subset of 234": chinchilla_subset(data),
    }
    fits = {name: resample(fit_surface(frame), "cases", draws=draws) for name, frame in sets.items()}
    main = fits["without the 5 highest losses"]
    found, errors = main.natural(), standard_errors(main)
    boot, profile = parameter_intervals(main), {p.name: p for p in profiles(main)}
    lines = [f"Fit to {len(main.points)} points, {draws} resamples of points.", ""]
    rows = []
    for name in NAMES:
        off = (found[name] - BESIROGLU[name]) / BESIROGLU_ERRORS[name]
        p = profile.get(name)
        rows.append(
            (
                name,
                _number(found[name]),
                _number(errors[name]),
                "[{}, {}]".format(*map(_number, boot[name][1:])),
                f"[{_number(p.low)}, {_number(p.high)}]" if p else "–",
                f"{_number(BESIROGLU[name])} ({BESIROGLU_ERRORS[name]:g})",
                f"{off:+.2f}",
                _number(HOFFMANN[name]),
            )
        )
    columns = (
        "",
        "fit",
        "standard error",
        "95 % by resampling",
        "95 % by profile",
        "refit of 2024 (s.e.)",
        "difference in their s.e.",
    )
    lines += [markdown((*columns, "Hoffmann et al. 2022"), rows), ""]

    rows = []
    for name, fit in fits.items():
        values, spread = fit.natural(), standard_errors(fit)
        cells = [f"{_number(values[p])} ± {_number(spread[p])}" for p in NAMES]
        rows.append((name, len(fit.points), *cells, f"{fit.objective:.6f}", fit.status.value))
    lines += [markdown(("points", "n", *NAMES, "objective", "status"), rows), ""]

    rows = []
    x, y = main.points.x, main.points.y
    for name, surface in {"fit": found, "refit of 2024": BESIROGLU, "Hoffmann et al. 2022": HOFFMANN}.items():
        residual = np.log(y) - np.log(surface_at(surface, x))
        objective = LOSS.objective(y, surface_at(surface, x), np.ones_like(y))
        best = policy(surface)
        cells = (
            f"{float(objective):.6f}",
            f"{residual.mean():+.4f}",
            f"{np.median(np.abs(residual)):.4f}",
            f"{np.mean(residual > 0):.0%}",
        )
        rows.append((name, *cells, f"{best['a']:.3f}", f"{best['params'] / 1e9:.0f}e9", f"{best['ratio']:.0f}"))
    columns = (
        "parameters",
        "objective",
        "mean error of log L",
        "median size",
        "points above",
        "a in N ~ C^a",
        "N at 5.76e23",
        "tokens per N",
    )
    lines += [markdown(columns, rows), ""]
    best = policy_intervals(main)
    exponent, ratio = best["a"], best["ratio"]
    lines += [
        f"Intervals of the fit: a {exponent[0]:.3f} [{exponent[1]:.3f}, {exponent[2]:.3f}], tokens per parameter at"
        f" 5.76e23 FLOPs {ratio[0]:.0f} [{ratio[1]:.0f}, {ratio[2]:.0f}].",
        "",
    ]

    rows = [("Hoffmann et al. 2022", "the 240 points", f"{recovery(HOFFMANN, x):.1e}")]
    rows += [("refit of 2024", "the 240 points", f"{recovery(BESIROGLU, x):.1e}")]
    surfaces = random_surfaces(200)
    rows += [(f"{len(surfaces)} drawn at random", "grid of 9 x 9", f"{max(recovery(s, grid()) for s in surfaces):.1e}")]
    rows += [(f"{len(surfaces)} drawn at random", "the 240 points", f"{max(recovery(s, x) for s in surfaces):.1e}")]
    lines += [markdown(("surface without noise", "at", "largest relative error of the five parameters"), rows)]
    return "\n".join(lines) + "\n"


def figure_of(data: Path, draws: int) -> Figure:
    """Residuals of the fit and of the original parameters, and what either says about compute-optimal training."""
    fit = resample(fit_surface(chinchilla(data)), "cases", draws=draws)
    x, y = fit.points.x, fit.points.y
    flops = 6 * x[:, 0] * x[:, 1]
    budgets = np.geomspace(1e18, 1e25, 60)
    with style():
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        ours, theirs = METHOD_COLOURS[0], METHOD_COLOURS[1]
        for surface, colour, label in ((HOFFMANN, theirs, "Hoffmann et al. 2022"), (fit.natural(), ours, "fit")):
            residual = np.log(y) - np.log(surface_at(surface, x))
            left.scatter(flops, residual, s=9, color=colour, label=label, linewidths=0, alpha=0.8)
            ratio = [policy(surface, budget)["ratio"] for budget in budgets]
            right.plot(budgets, ratio, color=colour)
        logs = np.log([[policy(surface, budget)["ratio"] for budget in budgets] for surface in _surfaces(fit)])
        band = stretched(
            np.log([policy(fit.natural(), budget)["ratio"] for budget in budgets]), logs, fit.degrees, 0.95
        )
        right.fill_between(budgets, np.exp(band.low), np.exp(band.high), color=ours, alpha=0.15, linewidth=0)
        right.axvline(flops.max(), color="#999999", linewidth=0.8, linestyle=(0, (4, 2)))
        end = {"xycoords": right.get_xaxis_transform(), "textcoords": "offset points", "ha": "right", "fontsize": 8}
        right.annotate("largest run", (flops.max(), 0.05), (-4, 0), **end)
        left.axhline(0, color="#999999", linewidth=0.8)
        left.set(xscale="log", xlabel="training compute (FLOPs, log)", ylabel="log L measured - log L predicted")
        left.set_title(f"Residuals at {len(fit.points)} points")
        left.legend(loc="upper right")
        right.set(
            xscale="log", yscale="log", xlabel="training compute (FLOPs, log)", ylabel="tokens per parameter (log)"
        )
        right.set_title("Compute-optimal training, with a 95 % band")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="write the tables here, in markdown")
    parser.add_argument("--figures", type=Path, help="write chinchilla.png into this folder")
    options = parser.parse_args()
    text = report(options.data, options.draws)
    print(text, end="")
    if options.out:
        options.out.write_text(text)
    if options.figures:
        options.figures.mkdir(parents=True, exist_ok=True)
        figure = figure_of(options.data, min(options.draws, 400))
        (options.figures / "chinchilla.png").write_bytes(render(figure)["png"])


if __name__ == "__main__":
    main()
