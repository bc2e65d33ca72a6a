"""PGR of a method over several tasks: the median of what each task gives, and PGR of mean accuracies.

Which sections belong together: those of one training part and the same settings, each task once. Settings are the same
where their digests are; digests that only one task has are matched by their words (`Results.settings`), and those of
tasks that have only one by that.

Draws are joint over tasks:

- *Test examples* are each task's own, so tasks are resampled independently of each other. Tasks that are tested on the
  very same examples, as variants of one task are, are resampled alike.
- *Seeds* are drawn once, jointly over all tasks, by their number: seed 3 stands for one pretrained ladder in every
  task, whose luck its tasks share. The covariance between tasks is so estimated from the seeds, as that between pairs
  is. Where seeds share nothing between tasks, as with a downloaded ladder, this stays right, because a mean over tasks
  at one seed is a replicate like any other; it only uses fewer degrees of freedom than independence would give.

A pair of models has a gap or not in each task by itself. The median leaves out, and counts, pairs without a gap and
tasks without any pair that has one; PGR of mean accuracies leaves out nothing.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.aggregates import NO_PGR, Valid, baselines, first_order_pgr
from analysis.frames import TASKS_SCHEMA, Section, bounds, methods_in_order
from analysis.grouping import Pair, SectionDraws, SectionPairs
from analysis.intervals import Draws, Interval, seed_noise, side_by_side
from analysis.results import SharedTest
from analysis.rows import Sizes, pgr, triples

MIN_TASKS = 2
ONLY_SETTINGS = ""
"""What the settings of tasks are called that have no others."""
_ORDER = 3
"""Stream of random numbers, beside those of `analysis.intervals`."""


@dataclass(frozen=True)
class TaskSection:
    """One task's section with what is known of it."""

    grouped: SectionPairs
    drawn: SectionDraws
    valid: Valid
    sizes: Sizes
    test: SharedTest

    @property
    def task(self) -> str:
        return self.grouped.section.task


Chosen = list[tuple[TaskSection, list[Pair]]]
"""Some pairs of some tasks."""


def task_rows(
    sections: Sequence[TaskSection], words: Mapping[tuple[str, str], str], *, random_seed: int
) -> list[dict[str, Any]]:
    """Rows of `Estimates.tasks`.

    Args:
        sections: All sections.
        words: What tells settings apart, by task and digest.
        random_seed: That of the sections' draws.
    """
    rows = []
    for (settings, part), alike in groups(sections, words).items():
        joint = _JointDraws(alike, random_seed)
        head = {"settings": settings, "part": part}
        for method in methods_in_order(pair.method for section in alike for pair in section.grouped.pairs):
            of_method = [(s, [pair for pair in s.grouped.pairs if pair.method == method]) for s in alike]
            of_method = [(section, pairs) for section, pairs in of_method if pairs]
            every = [pair for _, pairs in of_method for pair in pairs]
            about = {"method": method, "baseline": baselines(every), "oracle": any(pair.oracle for pair in every)}
            for of_models, models in _selections(of_method):
                rows += [head | about | models | row for row in _rows(joint, of_models, over_pairs=not models)]
    return [{name: row.get(name) for name in TASKS_SCHEMA} for row in rows]


def groups(
    sections: Sequence[TaskSection], words: Mapping[tuple[str, str], str]
) -> dict[tuple[str, str], list[TaskSection]]:
    """Sections that may be aggregated over, by what their settings are called and by part."""
    by_digest = _by(sections, lambda key: key.settings)
    alone = [of for (key, _), of in by_digest.items() if len(of) < MIN_TASKS]
    by_words = _by([s for of in alone for s in of], lambda key: words.get((key.task, key.settings), ONLY_SETTINGS))
    found = {key: of for key, of in by_digest.items() if len(of) >= MIN_TASKS}
    for key, of in by_words.items():
        # Two settings of one task under the same words cannot be told apart, so they match nothing.
        if MIN_TASKS <= len(of) == len({section.task for section in of}):
            found[key] = of
    return found


def _by(sections: Sequence[TaskSection], name: Callable[[Section], str]) -> dict[tuple[str, str], list[TaskSection]]:
    found: dict[tuple[str, str], list[TaskSection]] = {}
    for section in sections:
        key = section.grouped.section
        found.setdefault((name(key), key.part), []).append(section)
    return found


def _selections(of_method: Chosen) -> Iterator[tuple[Chosen, dict[str, Any]]]:
    """All pairs of each task, then each pair of models in the tasks that have it; where that is several tasks."""
    if len(of_method) >= MIN_TASKS:
        yield of_method, {}
    names = {pair.models: section.sizes for section, pairs in of_method for pair in pairs}
    for (weak, strong), sizes in names.items():
        chosen = [(s, [pair for pair in pairs if pair.models == (weak, strong)]) for s, pairs in of_method]
        chosen = [(section, pairs) for section, pairs in chosen if pairs]
        if len(chosen) >= MIN_TASKS:
            yield (
                chosen,
                {"weak": weak, "strong": strong}
                | {
                    f"{side}_{value}": sizes[model][value if value == "rung" else "x"]
                    for side, model in (("weak", weak), ("strong", strong))
                    for value in ("rung", "x")
                },
            )


def _rows(joint: "_JointDraws", of_tasks: Chosen, *, over_pairs: bool) -> list[dict[str, Any]]:
    """Median over tasks of PGR, and PGR of mean accuracies.

    Over pairs, a task's PGR is the mean over its pairs with a gap, expanded to first order as in `Estimates.methods`.
    """
    with_gap = [(section, [pair for pair in pairs if pair.gap_key in section.valid]) for section, pairs in of_tasks]
    with_gap = [(section, pairs) for section, pairs in with_gap if pairs]
    n_all, n_gap = (sum(len(pairs) for _, pairs in chosen) for chosen in (of_tasks, with_gap))
    shared = {
        "n_no_gap": len(of_tasks) - len(with_gap),
        "n_pairs_no_gap": n_all - n_gap,
        "n_seeds": min(len(pair.student.seeds) for _, pairs in of_tasks for pair in pairs),
    }
    rows = []
    if with_gap:
        counts = _counts(with_gap) | {"n_pairs": n_gap}
        rows.append({"statistic": "median"} | shared | counts | bounds("pgr", joint.median(with_gap, mean=over_pairs)))
    counts = _counts(of_tasks) | {"n_pairs": n_all}
    gap, of_means = joint.of_means(of_tasks)
    rows.append({"statistic": "of_means"} | shared | counts | (bounds("pgr", of_means) if gap.low[0] > 0 else NO_PGR))
    return rows


def _counts(of_tasks: Chosen) -> dict[str, Any]:
    return {
        "tasks": ", ".join(section.task for section, _ in of_tasks),
        "n_tasks": len(of_tasks),
        "n_test": sum(section.drawn.n_test for section, _ in of_tasks),
    }


class _JointDraws:
    """The draws of several tasks, see the module's text."""

    def __init__(self, sections: Sequence[TaskSection], random_seed: int) -> None:
        n_draws = len(sections[0].drawn.draws.examples)
        seeds = sorted({seed for section in sections for seed in section.drawn.seeds})
        self._noise = seed_noise(n_draws, len(seeds), random_seed)
        self._position = {seed: index for index, seed in enumerate(seeds)}
        # A task's example draws in an order of its own are independent of the others', and still the same draws.
        self._order = {s.task: draw_order(s.test, n_draws, random_seed) for s in sections}
        self._level = sections[0].drawn.level

    def of(self, of_tasks: Chosen) -> tuple[Draws, list[int]]:
        """Draws of weak, student and ceiling accuracy of some pairs, and where a next task begins in these columns."""
        parts = []
        for section, pairs in of_tasks:
            drawn = section.drawn
            columns = [drawn.column[key] for pair in pairs for key in pair.accuracy_keys]
            noise = self._noise[:, [self._position[seed] for seed in drawn.seeds]]
            parts.append(drawn.draws.part(columns, order=self._order[section.task], noise=noise))
        starts = np.cumsum([part.estimate.size for part in parts])[:-1]
        return side_by_side(parts), starts.tolist()

    def median(self, of_tasks: Chosen, *, mean: bool) -> Interval:
        """Median over tasks of a task's PGR: of its mean over pairs, or of its only pair."""
        draws, starts = self.of(of_tasks)
        expanded = [first_order_pgr(part) for part in np.split(draws.estimate, starts)]

        def statistic(columns: np.ndarray) -> np.ndarray:
            parts = np.split(columns, starts, axis=-1)
            if mean:
                values = [f(part).mean(axis=-1) for f, part in zip(expanded, parts, strict=True)]
            else:
                values = [pgr(part) for part in parts]
            return np.median(np.stack(values, axis=-1), axis=-1, keepdims=True)

        return draws.interval(statistic, range(len(draws.estimate)), level=self._level)

    def of_means(self, of_tasks: Chosen) -> tuple[Interval, Interval]:
        """The mean gap, and PGR of accuracies averaged over each task's pairs and then over tasks."""
        draws, starts = self.of(of_tasks)

        def means(columns: np.ndarray) -> np.ndarray:
            parts = np.split(columns, starts, axis=-1)
            return np.mean([triples(part).mean(axis=-2) for part in parts], axis=0)

        every = range(len(draws.estimate))
        gap = draws.interval(lambda a: (m := means(a))[..., 2:] - m[..., :1], every, level=self._level)
        return gap, draws.interval(lambda a: pgr(means(a))[..., None], every, level=self._level)


def draw_order(test: SharedTest, n_draws: int, random_seed: int) -> np.ndarray:
    """An order of draws that is the same for the same test examples, and another for others."""
    digest = hashlib.sha256("\n".join(test.example_ids).encode()).digest()
    return np.random.default_rng([random_seed, _ORDER, int.from_bytes(digest[:8], "little")]).permutation(n_draws)
