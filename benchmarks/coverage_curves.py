"""How often bands of fitted curves, and intervals of their parameters, hold the truth, by simulation.

For every family a true curve is drawn many times with noise, fitted, and resampled; counted is how often the nominal
95 % band of `curve_band` holds the true curve at places within the measured range, and how often bootstrap and profile
intervals hold the true parameter, where the profile says that the points determine it.

    python benchmarks/coverage_curves.py --sets 400 --out coverage_curves.md
"""

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.scaling.families import CURVES, Family
from analysis.scaling.fitting import fit_points
from analysis.scaling.points import Points
from analysis.scaling.uncertainty import curve_band, parameter_intervals, profiles, resample

Array = np.ndarray
LOW, HIGH = 1e18, 1e22
"""FLOPs."""
LOG_NOISE = 0.01
"""Standard deviation of log y."""
EXAMPLES = 1000
"""Behind each share."""
PLACES = np.linspace(0, 1, 21)
"""Positions within the range at which bands are judged."""
GOAL = (0.92, 0.98)

VALUES: dict[str, Sequence[float]] = {
    "linear": (2.0, -0.5),
    "power": (2.0, 1.0),
    "power_floor": (1.0, 1.0, 2.0),
    "log_odds_linear": (0.0, 2.0),
    "saturating": (2.5, -2.5, 2.0),
    "logistic": (0.5, 0.95, 8.0, 0.5),
    "m4": (0.9, 0.4, 2.0, 1.0, 5.0),
    "bnsl1": (0.5, 2.0, 1.0, -0.7, 0.5, 0.1),
    "bnsl2": (0.5, 2.0, 0.3, 1.5, 0.3, 0.08, -1.2, 0.7, 0.08),
}
"""True internal parameters (see `families`), with noise on log y."""
SHARES = VALUES | {
    "linear": (0.6, 0.3),
    "power": (0.55, -0.4),
    "power_floor": (0.9, -0.35, 2.0),
    "m4": (0.9, 0.1, 2.0, 1.0, 5.0),
    "bnsl1": (0.05, 0.85, 0.2, 1.2, 0.5, 0.1),
    "bnsl2": (0.05, 0.85, 0.1, 1.5, 0.3, 0.08, -1.4, 0.7, 0.08),
}
"""The same for shares, with binomial noise."""
FLAT = {"power_floor": (0.7, 0.0, 2.0), "saturating": (0.85, 0.0, 2.0)}
"""Curves that do not depend on x: exponent and floor cannot be told, the curve can."""


@dataclass(frozen=True)
class Setting:
    family: str
    binomial: bool
    flat: bool
    n: int

    @property
    def truth(self) -> Array:
        return np.array((FLAT if self.flat else SHARES if self.binomial else VALUES)[self.family])

    @property
    def words(self) -> str:
        return f"{self.family}{', flat' if self.flat else ''}"


@dataclass(frozen=True)
class Covered:
    """Of one setting."""

    setting: Setting
    curve: Array
    """Whether the band held the curve, shape (set, place)."""
    parameters: dict[str, tuple[int, int, int]]
    """name -> sets in which it was identified, held by the bootstrap interval, held by the profile interval."""
    profiled: int
    """Sets whose parameters were looked at."""

    @property
    def mean(self) -> float:
        return float(self.curve.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean over sets; places of one set go together."""
        return float(self.curve.mean(axis=1).std(ddof=1) / np.sqrt(len(self.curve)))


def settings() -> list[Setting]:
    """All that the points could contradict: at most n - 2 parameters."""
    every = [Setting(name, b, False, n) for name in VALUES for b in (False, True) for n in (8, 12, 20)]
    every += [Setting(name, b, True, n) for name in FLAT for b in (False, True) for n in (8, 12, 20)]
    return [s for s in every if CURVES[s.family].n_parameters <= s.n - 2]


def simulate(setting: Setting, rng: np.random.Generator) -> Points:
    family, u = CURVES[setting.family], np.linspace(0, 1, setting.n)[:, None]
    f = family.predict(setting.truth, u)
    x = LOW * np.exp(u * np.log(HIGH / LOW))
    if setting.binomial:
        return Points(x, rng.binomial(EXAMPLES, f) / EXAMPLES, np.full(setting.n, float(EXAMPLES)))
    y = f * np.exp(LOG_NOISE * rng.standard_normal(setting.n))
    return Points(x, np.minimum(y, 1.0) if family.link == "log-odds" else y)


def covered(setting: Setting, *, sets: int, with_parameters: int, draws: int) -> Covered:
    family: Family = CURVES[setting.family]
    rng = np.random.default_rng([setting.n, setting.binomial, setting.flat, list(CURVES).index(setting.family)])
    true = family.predict(setting.truth, PLACES[:, None])
    x = LOW * np.exp(PLACES * np.log(HIGH / LOW))
    held, counts, looked = [], {}, 0
    for index in range(sets):
        fit = resample(fit_points(simulate(setting, rng), family), draws=draws, random_seed=index)
        band = curve_band(fit, x)
        held.append((band.low <= true) & (true <= band.high))
        if index >= with_parameters or setting.flat:
            continue
        looked += 1
        bootstrap = parameter_intervals(fit)
        for profile in profiles(fit):
            if not profile.identified:
                continue
            natural = next(p for p in family.natural if p.name == profile.name)
            value = float(natural.compute(setting.truth, fit.axes))
            _, low, high = bootstrap[profile.name]
            one = (1, int(low <= value <= high), int(profile.low <= value <= profile.high))
            counts[profile.name] = tuple(np.add(counts.get(profile.name, (0, 0, 0)), one).tolist())
    return Covered(setting, np.array(held), counts, looked)


def table(found: Sequence[Covered]) -> str:
    """Markdown: curves, then parameters."""
    lines = [
        "| family | noise | n | curve | s.e. | at the worst place | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in found:
        low, high = GOAL
        word = "" if low <= c.mean <= high else ("too narrow" if c.mean < low else "too wide")
        worst = c.curve.mean(axis=0).min()
        noise = f"binomial, {EXAMPLES:,}" if c.setting.binomial else f"log y, {LOG_NOISE:g}"
        lines.append(
            f"| {c.setting.words} | {noise} | {c.setting.n} | {c.mean:.1%} | {c.error:.1%} | {worst:.1%} | {word} |"
        )
    lines += [
        "",
        "| family | noise | n | parameter | identified | bootstrap | profile |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for c in found:
        for name, (told, by_draws, by_profile) in c.parameters.items():
            noise = "binomial" if c.setting.binomial else "log y"
            lines.append(
                f"| {c.setting.words} | {noise} | {c.setting.n} | {name} | {told / c.profiled:.0%} |"
                f" {by_draws / told:.1%} | {by_profile / told:.1%} |"
            )
    return "\n".join(lines) + "\n"


def _job(job: tuple[Setting, int, int, int]) -> Covered:
    setting, sets, with_parameters, draws = job
    started = time.perf_counter()
    result = covered(setting, sets=sets, with_parameters=with_parameters, draws=draws)
    noise = "binomial" if setting.binomial else "log y"
    seconds = time.perf_counter() - started
    print(f"{setting.words}, {noise}, n = {setting.n}: {result.mean:.1%}  ({seconds:.0f} s)", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400, help="data sets per setting")
    parser.add_argument("--with-parameters", type=int, default=300, help="of these with profiles")
    parser.add_argument("--draws", type=int, default=300, help="resamples per data set")
    parser.add_argument("--families", default=",".join(VALUES), help="by name, with commas")
    parser.add_argument("--sizes", default="8,12,20", help="points per data set, with commas")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    names, sizes = args.families.split(","), {int(size) for size in args.sizes.split(",")}
    chosen = [s for s in settings() if s.family in names and s.n in sizes]
    found: list[Covered] = []
    with ProcessPoolExecutor(args.processes) as pool:
        for one in pool.map(_job, [(s, args.sets, args.with_parameters, args.draws) for s in chosen]):
            found.append(one)
            if args.out:  # as far as it got: hours may lie between the first setting and the last
                args.out.write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
