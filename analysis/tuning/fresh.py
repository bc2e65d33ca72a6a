"""Tuned against default on fresh instances, on test: paired, with intervals from joint draws.

The fresh instances are an ordinary sweep in the storage, whose manifest names a method for the default configuration,
and one or two for each tuned one: the same students measured against the reference ceiling (finetuned as the default
is) and against the matched one (finetuned as they are). Where a winner changes finetuning settings, naive with the same
settings tells what its method adds by itself. Everything is computed from the draws of `analysis.estimate`;
over several tasks from draws that are joint over tasks as in `analysis.across_tasks`, a mean over tasks of each task's
own value. The search weighs tasks equally, too, but its PGR is one of accuracies averaged over tasks; so is the value
that stands beside it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from analysis import metrics
from analysis.across_tasks import TaskSection, draw_order
from analysis.errors import AnalysisError
from analysis.estimates import ORACLE_MARK, REFERENCE_METHOD, Estimates, Options, compare, estimate
from analysis.frames import BOUNDS, SHARE, SHARE_DIFFERENCE, bounds
from analysis.grouping import Pair
from analysis.intervals import Draws, Interval, joint_draws, seed_noise, side_by_side
from analysis.results import Results, load
from analysis.rows import pgr
from analysis.tuning.reading import ORACLE, StudyFiles, TuningFiles

ALL_TASKS = None
"""In the column `task`: a mean over tasks, or the only task."""
GROUPS = ("all", "searched", "not searched", "largest")
"""Which pairs: all; those that the search used, at other seeds; those that it did not; those of the largest student."""
DEFAULT = "default"
MATCHED_NAIVE = "matched naive"
"""Role of naive with a winner's finetuning settings."""
KEYED_METRICS = ("pgr", "accuracy", "agreement")
"""What the draws of `analysis.estimate` have columns for."""
_ANY = (-np.inf, np.inf)
_METRIC_LIMITS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "accuracy": (SHARE, SHARE_DIFFERENCE),
    "agreement": (SHARE, SHARE_DIFFERENCE),
    "confidence": ((0.5, 1.0), (-0.5, 0.5)),
    "log_loss": ((-np.inf, 0.0), _ANY),
    "weak_log_loss": ((-np.inf, 0.0), _ANY),
}
"""Which values a metric of the search, larger being better, and a difference of two can have at all."""


def _columns(*names: str) -> dict[str, Any]:
    return {f"{name}{bound}": pl.Float64 for name in names for bound in BOUNDS}


METHODS_SCHEMA: dict[str, Any] = (
    {"contender": pl.String, "objective": pl.String, "number": pl.Int64, "oracle": pl.Boolean, "method": pl.String}
    | {"ceiling": pl.String, "task": pl.String}
    | _columns("accuracy", "pgr", "mean_pgr")
    | {"n_pairs": pl.Int64, "n_no_gap": pl.Int64, "n_seeds": pl.Int64, "n_test": pl.Int64}
)
_COMPARED: dict[str, Any] = {"contender": pl.String, "reference": pl.String, "oracle": pl.Boolean}
DIFFERENCES_SCHEMA: dict[str, Any] = (
    _COMPARED
    | {"pairs": pl.String, "task": pl.String}
    | _columns("accuracy_difference", "pgr_difference", "mean_pgr_difference")
    | {"n_pairs": pl.Int64, "n_tasks": pl.Int64, "n_seeds": pl.Int64, "n_test": pl.Int64}
)
PAIRS_SCHEMA: dict[str, Any] = (
    _COMPARED
    | {"task": pl.String, "weak": pl.String, "strong": pl.String, "weak_rung": pl.Int64, "strong_rung": pl.Int64}
    | {"searched": pl.Boolean, "largest": pl.Boolean}
    | _columns("accuracy_difference", "accuracy", "reference_accuracy")
    | {"n_seeds": pl.Int64, "n_test": pl.Int64}
)
SEARCH_SCHEMA: dict[str, Any] = (
    {"objective": pl.String, "metric": pl.String, "contender": pl.String, "same_pairs": pl.Boolean}
    | {"search_tuned": pl.Float64, "search_default": pl.Float64, "search_gain": pl.Float64}
    | _columns("fresh_tuned", "fresh_default", "fresh_gain")
    | {"n_pairs": pl.Int64, "n_seeds": pl.Int64, "n_candidates": pl.Int64, "note": pl.String}
)


@dataclass(frozen=True)
class Contender:
    """A configuration that was trained on the fresh instances."""

    name: str
    """`default`, `tuned (weak)`, `tuned [oracle]`, `front 12 (weak)`."""
    role: str
    """`default`, `tuned`, `front`, `naive` or `matched naive`."""
    label: str
    """Its method in the manifest, against the reference ceiling."""
    matched: str | None = None
    """The same against the ceiling that is finetuned as it is; None where that is the reference ceiling."""
    objective: str | None = None
    number: int | None = None
    """Of the candidate; of a winner of an earlier session that one's, None where it is not known."""

    @property
    def oracle(self) -> bool:
        return self.objective == ORACLE

    @property
    def changes_finetuning(self) -> bool:
        """Whether it is finetuned otherwise than the default, so that it differs from naive not by its method only."""
        return self.matched is not None


OTHER_FINETUNING = "other finetuning settings, too"


@dataclass(frozen=True)
class Fresh:
    """What the fresh instances say. Accuracies and PGR are fractions, on test."""

    contenders: tuple[Contender, ...]
    methods: pl.DataFrame
    """Per contender, ceiling and task (null: all): mean accuracy over pairs, PGR of mean accuracies (null where their
    mean gap cannot be told from zero), and for one task the mean PGR over pairs with a gap."""
    differences: pl.DataFrame
    """Contender minus reference, for the groups of pairs in `GROUPS`; PGRs against the reference ceiling."""
    pairs: pl.DataFrame
    """Contender minus reference at each pair."""
    search: pl.DataFrame
    """The winner's value in the search, on validation, beside the same metric on the fresh instances, on test."""
    problems: tuple[str, ...]
    n_seeds: int
    n_test: int
    options: Options
    complete: bool = True
    alike: frozenset[frozenset[str]] = frozenset()
    """Names of two contenders whose students are the same runs."""
    results: Results | None = field(default=None, repr=False)
    estimates: Estimates | None = field(default=None, repr=False)

    @property
    def is_empty(self) -> bool:
        return self.methods.is_empty()

    def named(self, role: str, objective: str | None = None) -> Contender | None:
        """The contender in a role."""
        return next((c for c in self.contenders if c.role == role and objective in (None, c.objective)), None)

    def same(self, one: Contender, other: Contender) -> bool:
        """Whether two contenders are one configuration: the same students, whatever the manifest calls them."""
        return one.label == other.label or frozenset((one.name, other.name)) in self.alike

    def reference_in_words(self, contender: str, reference: str) -> str:
        """What is subtracted; of naive it is said where not only the method differs."""
        own = next((c for c in self.contenders if c.name == contender), None)
        confounded = reference == REFERENCE_METHOD and own is not None and own.changes_finetuning
        return f"{reference} ({OTHER_FINETUNING})" if confounded else reference

    def value_of(self, objective: str, number: int | None, default: int | None) -> dict[str, Any] | None:
        """The row of `methods` of a candidate against the reference ceiling; None where it was not evaluated."""
        if number is None:
            return None
        rows = self.methods.filter((pl.col("ceiling") == "reference") & pl.col("task").is_null())
        own = rows.filter((pl.col("objective") == objective) & (pl.col("number") == number))
        if own.is_empty() and number == default:
            own = rows.filter(pl.col("contender") == DEFAULT)
        return own.row(0, named=True) if own.height else None


def name_of(objective: str) -> str:
    """What the winner of a search is called everywhere."""
    return f"tuned {_of(objective)}"


def _of(objective: str) -> str:
    return ORACLE_MARK if objective == ORACLE else f"({objective})"


def contenders_of(files: TuningFiles) -> tuple[Contender, ...]:
    """Who was trained on the fresh instances, the default first."""
    fresh = files.summary.get("fresh") or {}
    if not fresh:
        return ()
    found = [Contender(DEFAULT, DEFAULT, fresh["default"])] if fresh.get("default") else []
    best = {} if fresh.get("stale") else {study.objective: study.best for study in files.studies}
    winners = best | (fresh.get("winners") or {})
    for objective, labels in (fresh.get("tuned") or {}).items():
        matched = labels["matched"] if labels["matched"] != labels["reference"] else None
        found.append(
            Contender(name_of(objective), "tuned", labels["reference"], matched, objective, winners.get(objective))
        )
    for objective, label in (fresh.get("reference") or {}).items():
        if label and label != REFERENCE_METHOD and all(label not in (c.label, c.matched) for c in found):
            name = f"{REFERENCE_METHOD}, finetuned as {name_of(objective)}"
            found.append(Contender(name, MATCHED_NAIVE, label, None, objective))
    for objective, members in (fresh.get("front") or {}).items():
        for number, label in sorted(members.items(), key=lambda item: int(item[0])):
            if any(
                (c.label == label and c.number in (None, int(number)))
                or (c.role == "tuned" and (c.objective, c.number) == (objective, int(number)))
                for c in found
            ):
                continue  # the winner of the search, or the default
            found.append(Contender(f"front {number} {_of(objective)}", "front", label, None, objective, int(number)))
    return tuple(found)


def evaluate(files: TuningFiles, options: Options | None = None) -> Fresh:
    """Everything about the fresh instances; empty frames and a problem in words where there is nothing yet."""
    options = options or Options()
    contenders = contenders_of(files)
    described = files.summary.get("fresh")
    if not described:
        return _nothing(contenders, options, ())
    try:
        results = load(files.storage, described["sweep"])
        estimates = estimate(results, options)
    except AnalysisError as error:
        return _nothing(contenders, options, (f"the fresh instances cannot be read: {error}",))
    left_out = (f"left out of the fresh instances: {text}" for text in described.get("not_applicable") or ())
    problems = [with_short_names(text, contenders) for text in (*results.problems, *left_out)]
    if not results.missing.is_empty():
        total = results.pairs.height + results.missing.height
        problems.append(
            f"{results.missing.height} of {total} pairs (weak, strong, method, seed) of the fresh instances are not"
            " complete; what follows rests on the others"
        )
    sections = _sections(results, estimates)
    known = {pair.method for section in sections for pair in section.grouped.pairs}
    for contender in contenders:
        for label in (contender.label, contender.matched):
            if label is not None and label not in known:
                problems.append(f"{contender.name}: no complete pair of method {label} on the fresh instances")
    contenders = tuple(c for c in contenders if c.label in known)
    if contenders and REFERENCE_METHOD in known - {c.label for c in contenders}:
        contenders += (Contender(REFERENCE_METHOD, REFERENCE_METHOD, REFERENCE_METHOD),)
    if not contenders:
        return _nothing(contenders, options, tuple(problems))
    joint = _Joint(sections, options)
    searched = {(i["task"], i["weak"], i["strong"]) for i in files.summary.get("instances") or ()}
    default = next((c for c in contenders if c.role == DEFAULT), None)
    against = _comparisons(contenders, default, described.get("reference") or {})
    methods = [row for c in contenders for row in _method_rows(c, joint, estimates, known)]
    differences = [row for one, other in against for row in _difference_rows(one, other, joint, estimates, searched)]
    pairs = [row for one, other in against for row in _pair_rows(one, other, joint, searched)]
    search = [
        _search_row(study, contender, default, joint, results, searched)
        for study in files.studies
        if (contender := next((c for c in contenders if c.role == "tuned" and c.objective == study.objective), None))
    ]
    return Fresh(
        contenders=contenders,
        methods=pl.DataFrame(methods, schema=METHODS_SCHEMA),
        differences=pl.DataFrame(differences, schema=DIFFERENCES_SCHEMA),
        pairs=pl.DataFrame(pairs, schema=PAIRS_SCHEMA),
        search=pl.DataFrame(search, schema=SEARCH_SCHEMA),
        problems=tuple(problems),
        n_seeds=min(len(pair.student.seeds) for s in sections for pair in s.grouped.pairs),
        n_test=sum(section.drawn.n_test for section in sections),
        options=options,
        complete=results.missing.is_empty(),
        alike=frozenset(frozenset((a.name, b.name)) for a, b in combinations(contenders, 2) if _same(a, b, joint)),
        results=results,
        estimates=estimates,
    )


def with_short_names(text: str, contenders: Sequence[Contender]) -> str:
    """A text with the manifest's names of methods, some of which name the search too, as the report calls them."""
    names = {c.label: c.name for c in contenders if c.role not in (DEFAULT, REFERENCE_METHOD)}
    names |= {c.matched: c.name for c in contenders if c.matched is not None}
    for label in sorted(names, key=len, reverse=True):
        text = text.replace(label, names[label])
    return text


def _same(one: Contender, other: Contender, joint: "_Joint") -> bool:
    """Whether they have the same students wherever both were trained."""
    both = [pair for _, pairs in joint.common(one.label, other.label) for pair in pairs]
    return bool(both) and all(a.student == b.student for a, b in both)


def _nothing(contenders: tuple[Contender, ...], options: Options, problems: tuple[str, ...]) -> Fresh:
    return Fresh(
        contenders=contenders,
        methods=pl.DataFrame(schema=METHODS_SCHEMA),
        differences=pl.DataFrame(schema=DIFFERENCES_SCHEMA),
        pairs=pl.DataFrame(schema=PAIRS_SCHEMA),
        search=pl.DataFrame(schema=SEARCH_SCHEMA),
        problems=problems,
        n_seeds=0,
        n_test=0,
        options=options,
        complete=False,
    )


def _comparisons(
    contenders: Sequence[Contender], default: Contender | None, matched_naive: Mapping[str, str]
) -> list[tuple[Contender, Contender]]:
    """Who minus whom: tuned minus default; tuned minus naive with the same finetuning settings; both minus naive;
    what the oracle found minus what weak tuning found.

    Args:
        contenders: Who there is.
        default: The one that is the default configuration.
        matched_naive: Objective -> label of naive with the winner's finetuning settings.
    """
    found = [(c, default) for c in contenders if default is not None and c.role in ("tuned", "front")]
    tuned = {c.objective: c for c in contenders if c.role == "tuned"}
    by_label = {c.label: c for c in contenders if c.role == MATCHED_NAIVE}
    found += [(c, by_label[label]) for of, c in tuned.items() if (label := matched_naive.get(of or "")) in by_label]
    naive = next((c for c in contenders if c.role == REFERENCE_METHOD), None)
    if naive is not None:
        found += [(c, naive) for c in contenders if c.role in (DEFAULT, "tuned")]
    if "weak" in tuned and ORACLE in tuned:
        found.append((tuned[ORACLE], tuned["weak"]))
    return found


def _sections(results: Results, estimates: Estimates) -> list[TaskSection]:
    """The sections of estimates in the form that draws over tasks need, with gaps and sizes as the frames have them."""
    found = []
    for grouped, drawn in estimates.sections:
        section = grouped.section
        with_gap = estimates.of(section, estimates.pairs).filter(pl.col("has_gap"))
        valid = set(with_gap.select("weak", "strong", "baseline").iter_rows())
        sizes = {row["model"]: row for row in estimates.of(section, estimates.ladder).to_dicts()}
        found.append(TaskSection(grouped, drawn, valid, sizes, results.tests[section.task]))
    return found


# --- draws -----------------------------------------------------------------------------------------------------------

Drawn = tuple[Draws, Mapping[tuple, int]]
"""Draws, and which column each key is."""
Chosen = list[tuple[int, list[list[tuple]]]]
"""Some sections by place, each with the keys of its columns, one list per pair, all equally long."""


class _Joint:
    """Intervals over the sections of all tasks."""

    def __init__(self, sections: Sequence[TaskSection], options: Options) -> None:
        self.sections = list(sections)
        self.options = options
        seeds = sorted({seed for section in sections for seed in section.drawn.seeds})
        noise = seed_noise(options.draws, len(seeds), options.random_seed)
        self._noise = [noise[:, [seeds.index(seed) for seed in section.drawn.seeds]] for section in sections]
        # One task keeps the order of its draws, so that numbers are those of `Estimates`.
        several = len(sections) > 1
        self._order = [
            draw_order(section.test, options.draws, options.random_seed) if several else np.arange(options.draws)
            for section in sections
        ]

    def interval(
        self,
        chosen: Chosen,
        statistic: Callable[[np.ndarray], np.ndarray],
        drawn: Mapping[int, Drawn] | None = None,
        *,
        of_task_means: bool = False,
    ) -> Interval:
        """Mean over tasks of a statistic of each task's pairs.

        Args:
            chosen: Whose columns.
            statistic: From column means, shape (..., pair, column), to shape (...).
            drawn: Draws of each section, by its place, where not those of the estimates.
            of_task_means: The statistic of column means over pairs and then over tasks, instead.

        Returns:
            Arrays of shape (1,).
        """
        parts = []
        for place, keys in chosen:
            own = self.sections[place].drawn
            draws, column = drawn[place] if drawn else (own.draws, own.column)
            columns = [column[key] for of_pair in keys for key in of_pair]
            parts.append(draws.part(columns, order=self._order[place], noise=self._noise[place]))
        together = side_by_side(parts)
        starts = np.cumsum([part.estimate.size for part in parts])[:-1].tolist()
        width = len(chosen[0][1][0])

        def over_tasks(columns: np.ndarray) -> np.ndarray:
            tasks = [part.reshape(*part.shape[:-1], -1, width) for part in np.split(columns, starts, axis=-1)]
            if of_task_means:
                return statistic(np.mean([task.mean(axis=-2, keepdims=True) for task in tasks], axis=0))[..., None]
            return np.mean([statistic(task) for task in tasks], axis=0)[..., None]

        return together.interval(over_tasks, range(together.estimate.size), level=self.options.level)

    def pairs_of(self, label: str) -> list[tuple[int, dict[tuple[str, str], Pair]]]:
        """Pairs of a method by models, in the sections that have it."""
        found = [
            (place, {pair.models: pair for pair in section.grouped.pairs if pair.method == label})
            for place, section in enumerate(self.sections)
        ]
        return [(place, pairs) for place, pairs in found if pairs]

    def common(self, one: str, other: str) -> list[tuple[int, list[tuple[Pair, Pair]]]]:
        """Pairs of two methods at the same models and seeds."""
        others = dict(self.pairs_of(other))
        found = []
        for place, pairs in self.pairs_of(one):
            both = [
                (pair, others[place][models])
                for models, pair in pairs.items()
                if place in others
                and models in others[place]
                and others[place][models].student.seeds == pair.student.seeds
            ]
            if both:
                found.append((place, both))
        return found

    def task(self, place: int) -> str:
        return self.sections[place].grouped.section.task

    def rung(self, place: int, model: str) -> int:
        return self.sections[place].sizes[model]["rung"]


def _mean(a: np.ndarray) -> np.ndarray:
    """Of one column over pairs."""
    return a[..., 0].mean(axis=-1)


def _mean_difference(a: np.ndarray) -> np.ndarray:
    return (a[..., 0] - a[..., 1]).mean(axis=-1)


def _mean_gap(a: np.ndarray) -> np.ndarray:
    return (a[..., 2] - a[..., 0]).mean(axis=-1)


def _pgr_of_means(a: np.ndarray) -> np.ndarray:
    return pgr(a.mean(axis=-2))


def _pgr_of_means_difference(a: np.ndarray) -> np.ndarray:
    means = a.mean(axis=-2)
    return pgr(means[..., :3]) - pgr(means[..., 3:])


def _student(pair: Pair) -> tuple:
    return ("right", pair.student)


def _cut(interval: Interval, limits: tuple[float, float]) -> Interval:
    return interval.within(*limits)


# --- rows ------------------------------------------------------------------------------------------------------------


def _tasks_and_all(places: Iterable[int]) -> list[list[int]]:
    """All sections together, and if there are several each by itself."""
    every = list(places)
    return [every] if len(every) == 1 else [every, *([place] for place in every)]


def _method_rows(
    contender: Contender, joint: _Joint, estimates: Estimates, known: set[str]
) -> Iterable[dict[str, Any]]:
    both = (("reference", contender.label), ("matched", contender.matched or contender.label))
    for ceiling, label in both[: 1 if contender.role == MATCHED_NAIVE else 2]:
        if label not in known:
            continue
        by_place = dict(joint.pairs_of(label))
        if contender.role == MATCHED_NAIVE and any(p.baseline for own in by_place.values() for p in own.values()):
            ceiling = "matched"
        for places in _tasks_and_all(by_place):
            pairs = [(place, list(by_place[place].values())) for place in places]
            every = [pair for _, own in pairs for pair in own]
            triples = [(place, [pair.accuracy_keys for pair in own]) for place, own in pairs]
            accuracy = joint.interval([(place, [[_student(pair)] for pair in own]) for place, own in pairs], _mean)
            row: dict[str, Any] = {
                "contender": contender.name,
                "objective": contender.objective,
                "number": contender.number,
                "oracle": contender.oracle,
                "method": label,
                "ceiling": ceiling,
                "task": joint.task(places[0]) if len(places) < len(by_place) else ALL_TASKS,
                "n_pairs": len(every),
                "n_no_gap": sum(p.gap_key not in joint.sections[place].valid for place, own in pairs for p in own),
                "n_seeds": min(len(pair.student.seeds) for pair in every),
                "n_test": sum(joint.sections[place].drawn.n_test for place in places),
            }
            row |= bounds("accuracy", _cut(accuracy, SHARE))
            if joint.interval(triples, _mean_gap).low[0] > 0:
                row |= bounds("pgr", joint.interval(triples, _pgr_of_means))
            if len(places) == 1:
                section = joint.sections[places[0]].grouped.section
                of = estimates.of(section, estimates.methods)
                of = of.filter((pl.col("method") == label) & (pl.col("statistic") == "mean"))
                if of.height:
                    row |= {f"mean_pgr{bound}": of[f"pgr{bound}"][0] for bound in BOUNDS}
            yield {name: row.get(name) for name in METHODS_SCHEMA}


def _in_group(group: str, joint: _Joint, place: int, pair: Pair, largest: int, searched: set[Any]) -> bool:
    if group == "largest":
        return joint.rung(place, pair.strong) == largest
    used = (joint.task(place), *pair.models) in searched
    return group == "all" or used == (group == "searched")


def _largest(joint: _Joint, place: int, both: Sequence[tuple[Pair, Pair]]) -> int:
    """The rung of the largest student among some pairs of a task."""
    return max(joint.rung(place, pair.strong) for pair, _ in both)


def _head(one: Contender, other: Contender) -> dict[str, Any]:
    return {"contender": one.name, "reference": other.name, "oracle": one.oracle or other.oracle}


def _difference_rows(
    one: Contender, other: Contender, joint: _Joint, estimates: Estimates, searched: set[Any]
) -> Iterable[dict[str, Any]]:
    common = dict(joint.common(one.label, other.label))
    for places in _tasks_and_all(common) if common else []:
        for group in GROUPS if places == list(common) else GROUPS[:1]:
            chosen = [
                (
                    place,
                    [
                        both
                        for both in common[place]
                        if _in_group(group, joint, place, both[0], _largest(joint, place, common[place]), searched)
                    ],
                )
                for place in places
            ]
            chosen = [(place, both) for place, both in chosen if both]
            if not chosen:
                continue
            students = [(place, [[_student(a), _student(b)] for a, b in both]) for place, both in chosen]
            row: dict[str, Any] = _head(one, other) | {
                "pairs": group,
                "task": joint.task(places[0]) if len(places) < len(common) else ALL_TASKS,
                "n_pairs": sum(len(both) for _, both in chosen),
                "n_tasks": len(chosen),
                "n_seeds": min(len(pair.student.seeds) for _, both in chosen for pair, _ in both),
                "n_test": sum(joint.sections[place].drawn.n_test for place, _ in chosen),
            }
            row |= bounds("accuracy_difference", _cut(joint.interval(students, _mean_difference), SHARE_DIFFERENCE))
            sixes = [(place, [a.accuracy_keys + b.accuracy_keys for a, b in both]) for place, both in chosen]
            gaps = [
                joint.interval([(place, [keys[part] for keys in own]) for place, own in sixes], _mean_gap).low[0]
                for part in (slice(0, 3), slice(3, 6))
            ]
            one_ceiling = all(a.baseline == b.baseline for _, both in chosen for a, b in both)
            if min(gaps) > 0 and one_ceiling:
                row |= bounds("pgr_difference", joint.interval(sixes, _pgr_of_means_difference))
            if len(places) == 1 and group == "all" and one.label != other.label and one_ceiling:
                section = joint.sections[places[0]].grouped.section
                of = estimates.of(section, compare(estimates, one.label, other.label))
                of = of.filter(pl.col("size_gap").is_null())
                row |= {f"mean_pgr_difference{bound}": of[f"pgr_difference{bound}"][0] for bound in BOUNDS}
            yield {name: row.get(name) for name in DIFFERENCES_SCHEMA}


def _pair_rows(one: Contender, other: Contender, joint: _Joint, searched: set[Any]) -> Iterable[dict[str, Any]]:
    for place, both in joint.common(one.label, other.label):
        largest = _largest(joint, place, both)
        drawn = joint.sections[place].drawn
        for a, b in sorted(both, key=lambda ab: [joint.rung(place, m) for m in (ab[0].strong, ab[0].weak)]):
            difference = joint.interval([(place, [[_student(a), _student(b)]])], _mean_difference)
            row = _head(one, other) | {
                "task": joint.task(place),
                "weak": a.weak,
                "strong": a.strong,
                "weak_rung": joint.rung(place, a.weak),
                "strong_rung": joint.rung(place, a.strong),
                "searched": (joint.task(place), *a.models) in searched,
                "largest": joint.rung(place, a.strong) == largest,
                "n_seeds": len(a.student.seeds),
                "n_test": drawn.n_test,
            }
            row |= bounds("accuracy_difference", _cut(difference, SHARE_DIFFERENCE))
            for name, pair in (("accuracy", a), ("reference_accuracy", b)):
                row |= bounds(name, _cut(joint.interval([(place, [[_student(pair)]])], _mean), SHARE))
            yield {name: row.get(name) for name in PAIRS_SCHEMA}


# --- the search's own metric -----------------------------------------------------------------------------------------


def _search_row(
    study: StudyFiles,
    tuned: Contender,
    default: Contender | None,
    joint: _Joint,
    results: Results,
    searched: set[Any],
) -> dict[str, Any]:
    """The winner's value and gain in the search, and on fresh instances: at the search's own pairs where these have
    them, so that only seeds and examples are new."""
    best, start = study.candidate(tuned.number), study.candidate(study.default)
    row: dict[str, Any] = {"objective": study.objective, "metric": study.metric, "contender": tuned.name}
    row["search_tuned"] = best["value"] if best else None
    row["search_default"] = start["value"] if start else None
    if row["search_tuned"] is not None and row["search_default"] is not None:
        row["search_gain"] = row["search_tuned"] - row["search_default"]
    row["n_candidates"] = study.of_state("complete", "pruned").height
    common = (
        joint.common(tuned.label, default.label)
        if default
        else [(place, [(pair, pair) for pair in own.values()]) for place, own in joint.pairs_of(tuned.label)]
    )
    same = [(place, [(a, b) for a, b in both if (joint.task(place), *a.models) in searched]) for place, both in common]
    same = [(place, both) for place, both in same if both]
    row["same_pairs"] = bool(same)
    chosen = same or common
    if not chosen:
        return {name: row.get(name) for name in SEARCH_SCHEMA}
    row["n_pairs"] = sum(len(both) for _, both in chosen)
    row["n_seeds"] = min(len(pair.student.seeds) for _, both in chosen for pair, _ in both)
    try:
        row |= _fresh_metric(study.metric, chosen, joint, results, with_default=default is not None)
    except AnalysisError as error:
        row["note"] = str(error)
    return {name: row.get(name) for name in SEARCH_SCHEMA}


Both = list[tuple[int, list[tuple[Pair, Pair]]]]
"""Some sections by place, with pairs of two methods at the same models."""


def _fresh_metric(metric: str, chosen: Both, joint: _Joint, results: Results, *, with_default: bool) -> dict[str, Any]:
    """`fresh_tuned`, `fresh_default`, `fresh_gain` in a metric of the search.

    Raises:
        AnalysisError: The metric is not one that predictions of these runs give.
    """
    one, difference, drawn, of_task_means = _mean, _mean_difference, None, metric == "pgr"
    if metric == "pgr":
        triples = _keys(chosen, lambda a, _: a.accuracy_keys)
        if joint.interval(triples, _mean_gap, of_task_means=True).low[0] <= 0:
            raise AnalysisError("the mean gap of the fresh instances cannot be told from zero, so PGR means nothing")
        one, difference = _pgr_of_means, _pgr_of_means_difference
    elif metric not in KEYED_METRICS:
        drawn = {
            place: _metric_draws(metric, joint.sections[place], both, joint.options, results) for place, both in chosen
        }

    def keys(pair: Pair) -> list[tuple]:
        if metric == "pgr":
            return pair.accuracy_keys
        return [_student(pair)] if metric == "accuracy" else [_metric_key(metric, pair)]

    def of(name: str, keys: Chosen, statistic: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
        limits = _METRIC_LIMITS.get(metric, (_ANY, _ANY))[statistic is difference]
        return bounds(name, _cut(joint.interval(keys, statistic, drawn, of_task_means=of_task_means), limits))

    found = of("fresh_tuned", _keys(chosen, lambda a, _: keys(a)), one)
    if with_default:
        found |= of("fresh_default", _keys(chosen, lambda _, b: keys(b)), one)
        found |= of("fresh_gain", _keys(chosen, lambda a, b: keys(a) + keys(b)), difference)
    return found


def _keys(chosen: Both, keys: Callable[[Pair, Pair], list[tuple]]) -> Chosen:
    return [(place, [keys(a, b) for a, b in both]) for place, both in chosen]


def _metric_key(metric: str, pair: Pair) -> tuple:
    return ("agree" if metric == "agreement" else metric, pair.supervisor, pair.student)


def _metric_draws(
    metric: str, section: TaskSection, both: Sequence[tuple[Pair, Pair]], options: Options, results: Results
) -> Drawn:
    """Draws of a metric of probabilities, with the same resamples as those of the estimates: as `sweep` scores it.

    Raises:
        AnalysisError: An unknown metric, or runs without probabilities.
    """
    if metric not in ("weak_log_loss", "log_loss", "confidence"):
        raise AnalysisError(f"{metric} is not computed on fresh instances")
    test, seeds = section.test, section.drawn.seeds
    stopped = {
        view: (run_id, step)
        for view, run_id, step in results.pairs.select("student_view", "student_id", "stop_step").iter_rows()
    }
    cells = {_metric_key(metric, pair): pair for pairs in both for pair in pairs}
    values = np.zeros((test.n_examples, len(cells)), dtype=np.float32)
    by_seed = np.full((len(cells), len(seeds)), np.nan)
    for index, pair in enumerate(cells.values()):
        for seed, view, supervisor in zip(
            pair.student.seeds, pair.student.run_ids, pair.supervisor.run_ids, strict=True
        ):
            p = _probabilities(results, *stopped[view], section)
            if metric == "confidence":
                of_example = np.maximum(p, 1 - p)
            else:
                label = (
                    test.gold if metric == "log_loss" else _probabilities(results, supervisor, None, section, hard=True)
                )
                p = np.clip(p, metrics.LOG_LOSS_CLIP, 1 - metrics.LOG_LOSS_CLIP)
                of_example = label * np.log(p) + (1 - label) * np.log1p(-p)
            values[:, index] += of_example / len(pair.student.seeds)
            by_seed[index, seeds.index(seed)] = of_example.mean()
    draws = joint_draws(values, by_seed, n_draws=options.draws, random_seed=options.random_seed)
    return draws, {key: index for index, key in enumerate(cells)}


def _probabilities(
    results: Results, run_id: str, step: int | None, section: TaskSection, *, hard: bool = False
) -> np.ndarray:
    """P(class 1) on the task's shared test examples, in their order; the final step where none is given.

    Args:
        results: Where the run is.
        run_id: Which run.
        step: Which evaluation.
        section: Whose test examples.
        hard: Whether a prediction stands in where there is no probability, as for weak labels.
    """
    rows = results.evaluations(run_id).filter(pl.col("split") == "test")
    rows = rows.filter(pl.col("step") == (rows["step"].max() if step is None else step))
    ids = pl.DataFrame({"example_id": section.test.example_ids})
    rows = ids.join(rows, on="example_id", how="left", maintain_order="left", validate="1:1")
    p = pl.coalesce("p", pl.col("prediction").cast(pl.Float32)) if hard else pl.col("p")
    found = rows.select(p).to_series()
    if found.null_count():
        raise AnalysisError(f"runs/{run_id} has no probabilities, which this metric needs")
    return found.to_numpy().astype(np.float64)
