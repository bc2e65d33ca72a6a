"""Every IsoFLOP data set fitted without hand tuning: the surface in (parameters, tokens), and parabolas per budget.

    python benchmarks/isoflops.py --data DIR [--out FILE.md] [--drop-flagged]

Hoffmann et al. 2022 (arXiv:2203.15556), section 3: approach 3 fits L = E + A / N^alpha + B / D^beta to all runs at
once, so that the compute-optimal N grows as C^a with a = beta / (alpha + beta); approach 2 fits a parabola in log N to
the runs of each budget and a power law through the vertices. Both use Huber on the logarithm with delta 1e-3.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from chinchilla import LOSS, fit_surface
from scaling_data import RAW_RUNS, isoflops, markdown, raw_runs

from analysis.scaling.fitting import Fit
from analysis.scaling.uncertainty import parameter_intervals, profiles, resample, stretched

Array = np.ndarray
SMALLEST_BUDGET = 4
"""Different sizes a budget needs for a parabola."""
ROUNDS = 100
"""Of reweighted least squares."""


@dataclass(frozen=True)
class Optima:
    """Approach 2: where the parabolas have their minima."""

    budgets: Array
    """FLOPs, shape (budget,)."""
    params: Array
    """Best parameters, shape (budget,)."""
    losses: Array
    """Loss there, shape (budget,)."""
    left_out: dict[str, str]
    """Budget -> why it has no minimum."""
    exponent: tuple[float, float, float]
    """a of N = k C^a with a 95 % interval."""


def parabolas(u: Array, y: Array, weights: Array) -> Array:
    """Coefficients of c0 + c1 u + c2 u^2 under Huber on log y, by reweighted least squares.

    Args:
        u: Shape (point,).
        y: Values, shape (point,).
        weights: How often each point counts, shape (draw, point).

    Returns:
        Shape (draw, 3); not a number where the points do not determine a parabola.
    """
    basis = np.stack([np.ones_like(u), u, u * u], axis=-1)
    robust = np.ones_like(weights)
    known = np.ones(weights.shape[:-1], dtype=bool)
    c = np.full((*weights.shape[:-1], 3), np.nan)
    for _ in range(ROUNDS):
        w = weights * robust / y**2
        gram = np.einsum("dp,pi,pj->dij", w, basis, basis)
        moment = np.einsum("dp,pi->di", w * y, basis)
        known = np.linalg.cond(gram) < 1e12
        c[known] = np.linalg.solve(gram[known], moment[known][..., None])[..., 0]
        r = np.abs(np.log(np.maximum(np.nan_to_num(c) @ basis.T, 1e-12) / y))
        robust = np.minimum(1, LOSS.delta / np.maximum(r, 1e-12))
    c[~known] = np.nan
    return c


def approach_2(frame: pl.DataFrame, *, draws: int = 400, random_seed: int = 0) -> Optima:
    """Parabola in log parameters per budget; N = k C^a through the vertices; interval by resampling runs of budgets.

    A budget is left out if it has fewer than `SMALLEST_BUDGET` sizes, no minimum, or a minimum outside the sizes tried.
    """
    rng = np.random.default_rng(random_seed)
    kept: list[tuple[float, Array, float]] = []
    left_out: dict[str, str] = {}
    for (budget,), part in frame.sort("budget").group_by("budget", maintain_order=True):
        size = np.log(part["params"].to_numpy())
        name = f"{budget:.1e}"
        if np.unique(size).size < SMALLEST_BUDGET:
            left_out[name] = f"only {np.unique(size).size} sizes"
            continue
        middle = (size.min() + size.max()) / 2
        u = size - middle
        counts = rng.multinomial(size.size, np.full(size.size, 1 / size.size), size=draws).astype(float)
        c = parabolas(u, part["loss"].to_numpy(), np.vstack([np.ones(size.size), counts]))
        with np.errstate(divide="ignore", invalid="ignore"):
            vertex = np.where(c[:, 2] > 0, -c[:, 1] / (2 * c[:, 2]), np.nan)
        vertex = np.where(np.abs(vertex) <= np.ptp(size) / 2, vertex, np.nan)
        if np.isnan(vertex[0]):
            left_out[name] = "no minimum within the sizes tried"
            continue
        lowest = float(np.polyval(c[0, ::-1], vertex[0]))
        kept.append((float(str(budget)), vertex + middle, lowest))
    budgets = np.array([budget for budget, _, _ in kept])
    best = np.stack([vertex for _, vertex, _ in kept], axis=-1)  # (1 + draw, budget), logarithms
    exponents = np.array([_slope(np.log(budgets), row) for row in best])
    drawn = exponents[1:][np.isfinite(exponents[1:])]
    band = stretched(exponents[0], drawn, max(len(kept) - 2, 1), 0.95)
    return Optima(
        budgets=budgets,
        params=np.exp(best[0]),
        losses=np.array([lowest for _, _, lowest in kept]),
        left_out=left_out,
        exponent=(float(exponents[0]), float(band.low), float(band.high)),
    )


def _slope(x: Array, y: Array) -> float:
    """Slope of the line through the points that are numbers; not a number with fewer than three."""
    use = np.isfinite(y)
    return float(np.polyfit(x[use], y[use], 1)[0]) if use.sum() >= 3 else float("nan")


def approach_3(frame: pl.DataFrame, *, draws: int = 400) -> tuple[Fit, tuple[float, float, float]]:
    """The surface with resampled runs, and a = beta / (alpha + beta) with a 95 % interval."""
    fit = resample(fit_surface(frame), "cases", draws=draws)
    assert fit.draws is not None
    alpha, beta = (next(p for p in fit.family.natural if p.name == name) for name in ("alpha", "beta"))

    def exponent(parameters: Array) -> Array:
        first, second = alpha.compute(parameters, fit.axes), beta.compute(parameters, fit.axes)
        return second / (first + second)

    estimate = exponent(fit.parameters)
    band = stretched(estimate, exponent(fit.draws), fit.degrees, 0.95)
    return fit, (float(estimate), float(band.low), float(band.high))


def data_sets(data: Path, *, drop_flagged: bool = False) -> dict[str, tuple[pl.DataFrame, str]]:
    """Name -> runs, and what was left out of them."""
    found: dict[str, tuple[pl.DataFrame, str]] = {}
    whole = isoflops(data)
    for name, frame in isoflops(data, drop_flagged=drop_flagged).items():
        flagged = whole[name].height - frame.height
        found[name.replace("__", " / ")] = frame, f"{flagged} flagged" if flagged else ""
    for name in RAW_RUNS:
        frame, dropped = raw_runs(data, name)
        found[f"run export / {name}"] = frame, ", ".join(f"{n} {why}" for why, n in dropped.items() if n)
    return found


def undetermined(fit: Fit) -> str:
    """What the runs do not determine: the fit's diagnosis, and parameters whose profile is open."""
    notes = [fit.diagnosis] if fit.diagnosis else []
    open_ones = [p.name for p in profiles(fit) if not p.identified]
    return "; ".join([*notes, *([f"open profile: {', '.join(open_ones)}"] if open_ones else [])])


def _with_interval(values: tuple[float, float, float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*values)


def report(data: Path, *, draws: int, drop_flagged: bool) -> str:
    """Both tables, in markdown."""
    surfaces, exponents = [], []
    for name, (frame, left_out) in data_sets(data, drop_flagged=drop_flagged).items():
        fit, third = approach_3(frame, draws=draws)
        second = approach_2(frame, draws=draws)
        interval = parameter_intervals(fit)
        shape = [_with_interval(interval[p]) for p in ("E", "alpha", "beta")]
        scale = ["{:.3g} [{:.2g}, {:.2g}]".format(*interval[p]) for p in ("A", "B")]
        error = f"{np.median(np.abs(fit.residuals)):.4f}"
        status = fit.status.value + (f": {undetermined(fit)}" if undetermined(fit) else "")
        surfaces.append((name, len(fit.points), shape[0], *scale, *shape[1:], error, status))
        without = "; ".join(f"{budget}: {why}" for budget, why in second.left_out.items())
        used = f"{second.budgets.size} of {second.budgets.size + len(second.left_out)}"
        exponents.append(
            (name, left_out or "–", used, without or "–", _with_interval(second.exponent), _with_interval(third))
        )
    head = ("data set", "n", "E", "A", "B", "alpha", "beta", "median error of log L", "status")
    lines = [markdown(head, surfaces), ""]
    head = ("data set", "rows left out", "budgets with a minimum", "without", "a, approach 2", "a, approach 3")
    return "\n".join([*lines, markdown(head, exponents)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--drop-flagged", action="store_true", help="leave out rows that the data's outlier flags mark")
    parser.add_argument("--out", type=Path, help="write the tables here, in markdown")
    options = parser.parse_args()
    text = report(options.data, draws=options.draws, drop_flagged=options.drop_flagged)
    print(text, end="")
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
