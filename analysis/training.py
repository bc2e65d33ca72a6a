"""How accuracy and agreement move during training, and where early stopping would have stopped.

Overfitting to weak labels shows within one epoch (Burns et al. 2023, section 5.1.1, figures 7 and 13): for the pairs of
the weakest supervisor, whose students have most to unlearn, each student is scored at every evaluation. How far it has
fallen is the accuracy at a chosen evaluation minus that at the last one, paired by example and seed. Chosen on test
(`BEST`), as in the paper, it is never negative and overstates slightly; chosen on validation (`oracle`) it does not.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from analysis.errors import AnalysisError
from analysis.estimates import (
    BOUNDS,
    ORACLE_MARK,
    SECTION_KEY,
    SHARE,
    SHARE_DIFFERENCE,
    Estimates,
    Pair,
    Section,
    in_method_order,
    methods_in_order,
)
from analysis.intervals import Interval, joint_draws
from analysis.reading import READERS
from analysis.results import Results, SharedTest
from analysis.stopping import Stop, stop_step, weak_labels

MIN_STEPS = 3
"""Evaluations that a course of training needs to be shown."""
STOPS = (Stop.WEAK, Stop.ORACLE)
BEST = "best"
"""The evaluation, one for all seeds, with the best mean accuracy against ground truth on test: a diagnostic."""
TRAINING_SCHEMA: dict[str, Any] = (
    dict.fromkeys((*SECTION_KEY, "method", "weak", "strong"), pl.String)
    | {"strong_rung": pl.Int64, "point": pl.String, "step_fraction": pl.Float64}
    | {f"{name}{bound}": pl.Float64 for name in ("accuracy", "agreement", "drop") for bound in BOUNDS}
    | {"supervisor_acc": pl.Float64, "ceiling_acc": pl.Float64, "n_seeds": pl.Int64, "n_test": pl.Int64}
)


@dataclass(frozen=True)
class _Course:
    """One student at its evaluations."""

    fractions: tuple[float, ...]
    """Of the training steps."""
    prediction: np.ndarray
    """On the shared test examples, shape (example, step)."""
    stops: Mapping[Stop, int]
    """Position of the step at which each rule stops; a rule that cannot be applied is absent."""


def training(results: Results, estimates: Estimates) -> pl.DataFrame:
    """Courses of training under the weakest supervisor, means over seeds with joint intervals (`TRAINING_SCHEMA`).

    Only students that count at their last step and were evaluated at least three times. `point` is `step` for an
    evaluation that all seeds share, and `best` for the best of these by mean test accuracy (the earliest, if several
    are); `weak` and `oracle` for where early stopping would have stopped, each seed at its own step, `step_fraction`
    being the mean. Agreement is with the pair's supervisor, on test. `drop` is the accuracy at the point minus that at
    the last evaluation; null for `step`. Its interval takes the point as given.

    Raises:
        AnalysisError: A file that was readable before is damaged now.
    """
    rows: list[dict[str, Any]] = []
    for grouped, drawn in estimates.sections:
        measured = estimates.of(grouped.section, estimates.pairs)
        weakest = measured.sort("weak_rung")["weak"][0]
        scores = {(r["method"], r["weak"], r["strong"]): r for r in measured.to_dicts()}
        pairs = [pair for pair in grouped.pairs if pair.weak == weakest and pair.stop == Stop.LAST]
        test = results.tests[grouped.section.task]
        for strong in sorted({pair.strong for pair in pairs}):
            chosen = [pair for pair in pairs if pair.strong == strong]
            courses = _courses(results, test, chosen)
            shown = [(pair, courses[pair]) for pair in chosen if pair in courses]
            for row in _rows(shown, test, estimates.options.draws, estimates.options.random_seed, drawn.level):
                score = scores[row["method"], weakest, strong]
                kept = {name: score[name] for name in ("strong_rung", "ceiling_acc")}
                kept["supervisor_acc"] = score["weak_acc"]
                rows.append(_head(grouped.section) | row | kept | {"n_test": test.n_examples})
    frame = pl.DataFrame(rows, schema=TRAINING_SCHEMA)
    return in_method_order(frame, "point", "step_fraction", first=("strong_rung",))


def _head(section: Section) -> dict[str, Any]:
    return dict(section._asdict())


def _courses(results: Results, test: SharedTest, pairs: Sequence[Pair]) -> dict[Pair, list[_Course]]:
    """The courses of each pair by seed; pairs with too few evaluations are absent."""
    sources = dict(results.runs.select("run_id", "supervisor_id").iter_rows())
    students = sorted({run_id for pair in pairs for run_id in pair.student.run_ids})
    labelled = sorted({source for source in map(sources.get, students) if source})
    with ThreadPoolExecutor(max_workers=READERS) as pool:
        labels = dict(zip(labelled, pool.map(lambda i: _labels(results, i), labelled), strict=True))
        made = pool.map(lambda i: _course(results, test, i, labels.get(sources.get(i) or "")), students)
        course = dict(zip(students, made, strict=True))
    found = {pair: [course[run_id] for run_id in pair.student.run_ids] for pair in pairs}
    return {pair: courses for pair, courses in found.items() if len(_common(courses)) >= MIN_STEPS}


def _labels(results: Results, source: str) -> pl.DataFrame | None:
    try:
        return weak_labels(results.evaluations(source))
    except AnalysisError:
        return None  # a source that is not there any more: no mark where its labels would stop


def _course(results: Results, test: SharedTest, student: str, labels: pl.DataFrame | None) -> _Course:
    evaluations = results.evaluations(student)
    rows = evaluations.filter(pl.col("split") == "test", pl.col("example_id").is_in(test.example_ids.implode()))
    complete = rows.group_by("step").len().filter(pl.col("len") == test.n_examples)["step"].sort()
    rows = rows.filter(pl.col("step").is_in(complete.implode())).sort("step", "example_id")
    prediction = rows["prediction"].to_numpy().reshape(len(complete), test.n_examples).T
    last = max(complete, default=1) or 1  # what is not trained has one evaluation, at step 0
    position = {step: index for index, step in enumerate(complete)}
    stops: dict[Stop, int] = {}
    for stop in STOPS:
        try:
            step = stop_step(evaluations, stop, labels)
        except AnalysisError:
            continue
        if step in position:
            stops[stop] = position[step]
    return _Course(tuple(round(step / last, 4) for step in complete), prediction, stops)


def _common(courses: Sequence[_Course]) -> list[float]:
    """Fractions of training at which all seeds were evaluated."""
    return sorted(set.intersection(*(set(course.fractions) for course in courses)))


def overfitting(courses: pl.DataFrame, methods: int = 3) -> list[str]:
    """What the courses of one section show, in sentences about its largest student; of the first methods only."""
    if courses.is_empty():
        return []
    largest = courses.filter(pl.col("strong_rung") == pl.col("strong_rung").max())
    weak, strong = largest.select("weak", "strong").row(0)
    texts = []
    for method in methods_in_order(largest["method"])[:methods]:
        points = {row["point"]: row for row in largest.filter(pl.col("method") == method).to_dicts()}
        best, chosen = points[BEST], points.get(Stop.ORACLE)
        text = f"{method}: "
        if best["drop_high"] <= 0:
            text += "best at the last evaluation"
        else:
            text += f"{_points(best)} points lower at the end than at its best evaluation, at {_percent(best)} of it"
            if peak_may_precede(largest.filter(pl.col("method") == method)):
                text += ", the first there is: the peak may lie before it, so that this is a lower bound"
        if chosen is not None and chosen["drop"] is not None and best["drop_high"] > 0:
            text += f" ({_points(chosen)} if that is chosen by ground truth on validation)"
        texts.append(text)
    return [
        f"During training on the labels of {weak}, test accuracy of {strong} is, by method, {'; '.join(texts)}."
        f" The best evaluation looks at ground truth {ORACLE_MARK}: it shows overfitting to weak labels, and is no"
        " method."
    ]


def peak_may_precede(course: pl.DataFrame) -> bool:
    """Whether a student is best at its first evaluation, so that nothing is known of the way there.

    Args:
        course: Rows of one student of one method.
    """
    steps, best = (course.filter(pl.col("point") == name)["step_fraction"].to_list() for name in ("step", BEST))
    return bool(best) and len(steps) > 1 and best[0] <= min(steps)


def _points(row: Mapping[str, Any]) -> str:
    value, low, high = (round(100 * row[f"drop{bound}"], 2) + 0.0 for bound in BOUNDS)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _percent(row: Mapping[str, Any]) -> str:
    return f"{100 * row['step_fraction']:.0f} %"


def _rows(
    shown: Sequence[tuple[Pair, Sequence[_Course]]], test: SharedTest, draws: int, random_seed: int, level: float
) -> list[dict[str, Any]]:
    """Rows of one student model: one joint resampling for all its methods."""
    if not shown:
        return []
    seeds = sorted({seed for pair, _ in shown for seed in pair.student.seeds})
    heads: list[dict[str, Any]] = []
    last: list[int] = []
    """Position in `heads` of the last evaluation of the same student."""
    values: list[np.ndarray] = []
    by_seed: list[np.ndarray] = []

    def add(pair: Pair, per_run: np.ndarray) -> None:
        """`per_run`: bool, shape (example, seed)."""
        values.append(per_run.mean(axis=1, dtype=np.float32))
        means = np.full(len(seeds), np.nan)
        means[[seeds.index(seed) for seed in pair.student.seeds]] = per_run.mean(axis=0)
        by_seed.append(means)

    for pair, courses in shown:
        weak = test.predictions(pair.supervisor.run_ids)
        shared = _common(courses)
        picks = [("step", x, [course.fractions.index(x) for course in courses]) for x in shared]
        end = len(heads) + len(shared) - 1
        accuracy = [np.mean([_accuracy(c, test, i) for c, i in zip(courses, at, strict=True)]) for _, _, at in picks]
        picks.append((BEST, *picks[int(np.argmax(accuracy))][1:]))
        for stop in STOPS:
            if all(stop in course.stops for course in courses):
                chosen = [course.stops[stop] for course in courses]
                mean = np.mean([course.fractions[index] for course, index in zip(courses, chosen, strict=True)])
                picks.append((stop.value, float(mean), chosen))
        for point, fraction, indices in picks:
            student = np.stack([c.prediction[:, index] for c, index in zip(courses, indices, strict=True)], axis=1)
            add(pair, student == test.gold[:, None])
            add(pair, student == weak)
            last.append(end)
            heads.append(
                {"method": pair.method, "weak": pair.weak, "strong": pair.strong, "point": point}
                | {"step_fraction": fraction, "n_seeds": len(pair.student.seeds)}
            )
    resampled = joint_draws(np.stack(values, axis=1), np.stack(by_seed), n_draws=draws, random_seed=random_seed)
    rows = []
    for index, head in enumerate(heads):
        interval = resampled.interval(lambda a: a, [2 * index, 2 * index + 1], level=level).within(*SHARE)
        row = _bounds(interval, ("accuracy", "agreement"))
        if head["point"] != "step":
            drop = resampled.interval(lambda a: a[..., :1] - a[..., 1:], [2 * index, 2 * last[index]], level=level)
            row |= _bounds(drop.within(*SHARE_DIFFERENCE), ("drop",))
        rows.append(head | row)
    return rows


def _accuracy(course: _Course, test: SharedTest, index: int) -> float:
    return float((course.prediction[:, index] == test.gold).mean())


def _bounds(interval: Interval, names: Sequence[str]) -> dict[str, float]:
    bounds = zip(BOUNDS, (interval.estimate, interval.low, interval.high), strict=True)
    return {f"{name}{bound}": float(values[k]) for bound, values in bounds for k, name in enumerate(names)}
