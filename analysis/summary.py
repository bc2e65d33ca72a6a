"""What the results say, in plain sentences, each number with its interval and n. For terminal and report alike."""

from collections.abc import Sequence

import polars as pl

from analysis.estimates import ORACLE_MARK, OWN, Estimates, Section, methods_in_order
from analysis.frames import TASKS_KEY
from analysis.intervals import FEW_SEEDS
from analysis.results import ROLES, Results
from analysis.scores import by_metric, score_findings
from analysis.tags import by_tag, tag_findings
from analysis.wording import counted, estimated, in_points, listed, over_all, signed

_PROBLEMS_SHOWN = 20
_METHODS_IN_A_LINE = 3
_METHODS_OVER_TASKS = 10


def summary(
    results: Results, estimates: Estimates, scores: pl.DataFrame | None = None, tags: pl.DataFrame | None = None
) -> list[str]:
    """Sentences about the whole: completeness first, then each section, then what went wrong.

    Args:
        results: What was read.
        estimates: From it.
        scores: `by_metric` of both, made here if it is not given.
        tags: `by_tag` of both, likewise.
    """
    scores = by_metric(results, estimates) if scores is None else scores
    tags = by_tag(results, estimates) if tags is None else tags
    lines = completeness(results)
    several = len(estimates.sections) > 1
    for grouped, _ in estimates.sections:
        if several:
            lines.append(f"{section_title(grouped.section, estimates)}:")
        lines += findings(estimates, grouped.section, beside_accuracy(estimates, grouped.section, scores, tags))
    return lines + over_tasks(estimates) + warnings(results)


def section_title(section: Section, estimates: Estimates) -> str:
    """The task; with what else tells its sections apart, where there are several."""
    same_task = [grouped.section for grouped, _ in estimates.sections if grouped.section.task == section.task]
    title = f"{section.task} ({section.form})"
    if len({other.settings for other in same_task}) > 1:
        words = estimates.settings.get((section.task, section.settings))
        title += f", {words} (settings {section.settings})" if words else f", settings {section.settings}"
    if len({other.part for other in same_task}) > 1:
        title += f", part {section.part}"
    return title


def completeness(results: Results) -> list[str]:
    """How many pairs are there, and which kinds of run the others lack."""
    total = results.pairs.height + results.missing.height
    if total == 0:
        return [note[0].upper() + note[1:] + "." for note in results.notes] or ["There are no weak-to-strong pairs."]
    if results.missing.is_empty():
        whole = "The only pair {} is complete." if total == 1 else f"All {total} pairs {{}} are complete."
        lines = [whole.format("(weak, strong, method, seed)")]
    else:
        lines = [f"{results.pairs.height} of {total} pairs (weak, strong, method, seed) are complete."]
        lines.append("Missing: " + "; ".join(missing_by_kind(results)) + ".")
    return lines + [note[0].upper() + note[1:] + "." for note in results.notes]


def missing_by_kind(results: Results) -> list[str]:
    """For instance "2 students not finished", each run counted once."""
    texts = []
    for role in ROLES:
        states = results.missing.select(f"{role}_id", f"{role}_state").unique()
        counts = states.filter(pl.col(f"{role}_state") != "done").group_by(f"{role}_state").len().sort(f"{role}_state")
        texts += [f"{counted(n, role)} {state}" for state, n in counts.iter_rows()]
    return texts


def beside_accuracy(estimates: Estimates, section: Section, scores: pl.DataFrame, tags: pl.DataFrame) -> list[str]:
    """Of one section, from `by_metric` and `by_tag`."""
    return score_findings(estimates.of(section, scores)) + tag_findings(estimates.of(section, tags))


def findings(estimates: Estimates, section: Section, beside: Sequence[str] = ()) -> list[str]:
    """What one section shows; `beside` is what scores other than overall accuracy say."""
    ladder, pairs = estimates.of(section, estimates.ladder), estimates.of(section, estimates.pairs)
    methods, differences = estimates.of(section, estimates.methods), estimates.of(section, estimates.differences)
    return [
        _base(pairs, estimates, section),
        *_ground_truth(ladder, estimates.of(section, estimates.rises).to_dicts()),
        *_majority(ladder),
        *_one_class(pairs, ladder),
        *(text for method in methods_in_order(methods["method"]) for text in _method(method, methods)),
        *_no_gap(methods),
        *(text for method in methods_in_order(differences["method"]) for text in _difference(method, differences)),
        *beside,
        *_by_gap(differences),
        *_agreement(pairs),
        *_slopes(estimates.of(section, estimates.agreement_slopes)),
        *_oracle(methods),
        *_baselines(methods, differences),
    ]


def over_tasks(estimates: Estimates) -> list[str]:
    """PGR of each method over tasks; nothing where there are not several tasks that were trained alike."""
    frame = estimates.tasks.filter(pl.col("weak").is_null())
    lines = []
    for (settings, part), rows in frame.group_by(TASKS_KEY, maintain_order=True):
        several = estimates.tasks.select(TASKS_KEY).n_unique() > 1
        where = f", {settings or 'the only settings'}, part {part}" if several else ""
        names = max(rows.filter(pl.col("statistic") == "of_means")["tasks"], key=len)
        lines.append(f"Over tasks ({names}{where}):")
        methods = methods_in_order(rows["method"])
        lines += [_over_tasks(method, rows) for method in methods[:_METHODS_OVER_TASKS]]
        if len(methods) > _METHODS_OVER_TASKS:
            lines.append(f"{counted(len(methods) - _METHODS_OVER_TASKS, 'more method')} in the table of tasks.")
    return lines


def warnings(results: Results) -> list[str]:
    """What a reader must know before trusting the numbers."""
    lines = list(results.problems[:_PROBLEMS_SHOWN])
    if len(results.problems) > _PROBLEMS_SHOWN:
        lines.append(f"... and {len(results.problems) - _PROBLEMS_SHOWN} more problems of this kind.")
    shrunk = shrunk_runs(results)
    if shrunk:
        some = ", ".join(shrunk[:5]) + (", ..." if len(shrunk) > 5 else "")
        lines.append(
            f"{counted(len(shrunk), 'run')} ran out of memory and had to be done with a smaller micro-batch, so their"
            f" low bits may differ from those of a machine with more memory: {some}."
        )
    return lines + truncations(results)


def truncations(results: Results) -> list[str]:
    """How many texts, or pairs, of which task were cut because they are longer than `max_length`."""
    lines = []
    runs = results.runs.filter(pl.col("truncated").is_not_null() & pl.col("task").is_not_null())
    for (task, form, length), rows in runs.group_by("task", "form", "max_length", maintain_order=True):
        noun = "pair" if form == "compare" else "text"
        cut = rows.filter(pl.col("truncated") > 0)["truncated"].sort().to_list()
        if not cut:
            continue
        texts = f"{cut[0]:,} to {cut[-1]:,} {noun}s" if cut[0] < cut[-1] else counted(cut[0], noun)
        limit = "max_length" if length is None else f"max_length ({length} tokens)"
        in_each = "in the only run" if rows.height == 1 else f"in each of {len(cut)} of {rows.height} runs"
        lines.append(f"Task {task}: {noun}s longer than {limit} were cut, {texts} {in_each}.")
    return sorted(lines)


def shrunk_runs(results: Results) -> list[str]:
    """Ids of runs whose micro-batch was shrunk."""
    return results.runs.filter(pl.col("micro_batch_shrunk").fill_null(False))["run_id"].to_list()


# --- sentences -------------------------------------------------------------------------------------------------------


def _base(pairs: pl.DataFrame, estimates: Estimates, section: Section) -> str:
    fewest, most = min(pairs["n_seeds"].to_list()), max(pairs["n_seeds"].to_list())
    n_tests = max(pairs["n_test"].to_list())
    few = ""
    if fewest == 1:
        few = " With one seed intervals cover test examples only; another seed may well fall outside."
    elif fewest == 2:
        few = (
            " Two seeds say next to nothing about the spread over seeds: intervals may fill the whole range of what"
            " they measure, at whose ends they are cut."
        )
    elif fewest < FEW_SEEDS:
        few = (
            f" With fewer than {FEW_SEEDS} seeds the spread over seeds is itself poorly known:"
            " intervals are wide and rough."
        )
    if fewest != 2 and section in estimates.cut:
        few += " Intervals that reached beyond the range of what they measure are cut at its end."
    parts = (
        counted(pairs.select("weak", "strong").n_unique(), "weak/strong combination"),
        counted(pairs["method"].n_unique(), "method"),
        counted(most, "seed") if fewest == most else f"{fewest} to {most} seeds",
    )
    return (
        f"{' x '.join(parts)}, scored on {n_tests:,} test examples; square brackets hold"
        f" {estimates.options.level * 100:g} % intervals from {estimates.options.draws:,} joint resamples.{few}"
    )


def _ground_truth(ladder: pl.DataFrame, rises: Sequence[dict]) -> list[str]:
    """Whether larger models have higher ceilings, as far as the joint intervals of differences tell."""
    rows = ladder.filter(pl.col("ceiling_acc").is_not_null()).sort("rung").to_dicts()
    if len(rows) < 2:
        return []
    low, high = (f"{estimated(row, 'ceiling_acc')} ({row['model']})" for row in (rows[0], rows[-1]))
    ends = f"from {low} to {high}"
    steps = [row for row in rises if row["neighbours"]]
    overall = next((row for row in rises if not row["neighbours"]), steps[0])
    text = "Ground-truth accuracy (the ceiling) "
    if len(steps) > 1 and all(_sign(row) > 0 for row in steps):
        return [f"{text}rises at each of the {len(steps)} steps between {len(rows)} rungs, {ends}."]
    verb = {1: "rises", -1: "falls", 0: "cannot be told apart between the smallest and the largest rung: it goes"}
    text += f"{verb[_sign(overall)]} {ends}, a difference of {signed(overall, 'rise')}."
    if len(steps) > 1:
        names = {sign: [f"{r['smaller']} to {r['larger']}" for r in steps if _sign(r) == sign] for sign in (0, -1)}
        text += f" From rung to rung it cannot be told apart from {listed(names[0])}." if names[0] else ""
        text += f" It falls from {listed(names[-1])}." if names[-1] else ""
    return [text]


def _sign(row: dict) -> int:
    """Of a rise: 1 or -1 where its interval is on one side of zero."""
    return int(row["rise_low"] > 0) - int(row["rise_high"] < 0)


_CONSTANT = ("answering the more frequent class", "giving the most frequent answer")


def _majority(ladder: pl.DataFrame) -> list[str]:
    """Models that test cannot tell from answering the more frequent class throughout."""
    parts = []
    for role, words in (("supervisor", "supervisors"), ("ceiling", "ceilings")):
        of_role = ladder.filter(pl.col(f"{role}_acc").is_not_null()).sort("rung")
        models = of_role.filter(pl.col(f"{role}_above_majority_low") <= 0)["model"].to_list()
        if models:
            which = f"the {role if len(models) == 1 else words} {listed(models)}"
            if len(models) == of_role.height > 1:
                which = f"both {words}" if len(models) == 2 else f"all {len(models)} {words}"
            parts.append(which)
    if not parts:
        return []
    constant = _CONSTANT[ladder["form"][0] == "generate"]
    return [
        f"Not clearly better than always {constant}: {' and '.join(parts)}. Where ground truth"
        " taught a model nothing that test can see, there is nothing to recover."
    ]


def _one_class(pairs: pl.DataFrame, ladder: pl.DataFrame) -> list[str]:
    """Models whose predictions are all the same: their agreement and their PGR describe a constant."""
    parts = []
    for role in ("supervisor", "ceiling"):
        rows = ladder.filter(pl.col(f"{role}s_one_class") > 0).sort("rung")
        parts += [
            f"{counted(n, role)} ({model})" for model, n in rows.select("model", f"{role}s_one_class").iter_rows()
        ]
    for method in methods_in_order(pairs["method"]):
        rows = pairs.filter(pl.col("method") == method)
        n = int(rows["students_one_class"].sum())
        if n:
            parts.append(f"{n} of {counted(int(rows['n_seeds'].sum()), 'student')} ({method})")
    if not parts:
        return []
    return [f"Predict one class only, whatever the example: {listed(parts)}. Agreement says nothing of them."]


def _method(method: str, methods: pl.DataFrame) -> list[str]:
    by = {row["statistic"]: row for row in methods.filter(pl.col("method") == method).to_dicts()}
    of_means = by["of_means"]
    none = of_means["n_no_gap"]
    if "mean" not in by:
        return []  # see _no_gap
    mean, median = by["mean"], by["median"]
    text = f"{method}: mean PGR {estimated(mean, 'pgr')} over {counted(mean['n_pairs'], 'pair')} with a gap"
    text += f", median {estimated(median, 'pgr')}"
    if none:
        text += f" ({none} left out as no gap)"
    over = over_all(of_means["n_pairs"], "pair")
    if of_means["pgr"] is None:
        text += f". The mean gap {over} cannot be told from zero, so mean accuracies have no PGR."
    else:
        text += f"; PGR of mean accuracies {over} {estimated(of_means, 'pgr')}."
    if mean["pgr_low"] > 0:
        text += " Students recover a share of the gap that is clearly above zero."
    elif mean["pgr_high"] < 0:
        text += " Students are clearly worse than their supervisors."
    else:
        text += " The interval of the mean includes zero."
    return [text]


def _over_tasks(method: str, rows: pl.DataFrame) -> str:
    by = {row["statistic"]: row for row in rows.filter(pl.col("method") == method).to_dicts()}
    of_means = by["of_means"]
    n = of_means["n_tasks"]
    if "median" in by:
        median = by["median"]
        left_out = [
            f"{counted(median[key], noun)}"
            for key, noun in (("n_no_gap", "task"), ("n_pairs_no_gap", "pair"))
            if median[key]
        ]
        text = (
            f"{method}: median PGR {estimated(median, 'pgr')} over {counted(median['n_tasks'], 'task')}, each the mean"
            f" of its pairs with a gap ({counted(median['n_pairs'], 'pair')} in all"
        )
        text += f"; {' and '.join(left_out)} left out as no gap)" if left_out else ")"
    else:
        text = f"{method}: no pair of any task has a gap that can be told from zero"
    over = f"over all {counted(of_means['n_pairs'], 'pair')} of {counted(n, 'task')}"
    if of_means["pgr"] is None:
        return f"{text}. The mean gap {over} cannot be told from zero, so mean accuracies have no PGR."
    return f"{text}; PGR of mean accuracies {over} {estimated(of_means, 'pgr')}."


def _no_gap(methods: pl.DataFrame) -> list[str]:
    """Methods that nowhere have a gap, together: the reason is the same for all."""
    with_mean = methods.filter(pl.col("statistic") == "mean")["method"].unique()
    rows = methods.filter((pl.col("statistic") == "of_means") & ~pl.col("method").is_in(with_mean.implode()))
    lines = []
    for n in rows["n_pairs"].unique().sort():
        names = ", ".join(methods_in_order(rows.filter(pl.col("n_pairs") == n)["method"]))
        none = "the only combination does not have" if n == 1 else f"none of {n} combinations has"
        lines.append(
            f"{names}: {none} a gap between supervisor and ceiling that can be told from zero, so PGR means nothing"
            " here."
        )
    return lines


def _difference(method: str, differences: pl.DataFrame) -> list[str]:
    rows = differences.filter(pl.col("method") == method)
    overall = rows.filter(pl.col("size_gap").is_null()).row(0, named=True)
    reference = overall["reference"]
    n_with_gap, n_all = overall["n_pairs"], overall["n_pairs"] + overall["n_no_gap"]
    accuracy = f"accuracy {in_points(overall, 'accuracy_difference')} points {over_all(n_all, 'pair')}"
    if overall["pgr_difference"] is None:
        return [f"{method} minus {reference}: {accuracy}."]
    text = (
        f"{method} minus {reference}: mean PGR {signed(overall, 'pgr_difference')} over"
        f" {counted(n_with_gap, 'pair')} with a gap ({_verdict(overall)}{_signs(overall)}), {accuracy}."
    )
    return [text]


def _signs(row: dict) -> str:
    """At how many pairs the method is ahead: a description, since pairs share supervisors and ceilings."""
    return f"; higher at {row['n_higher']}, lower at {row['n_lower']}" if row["n_pairs"] > 1 else ""


def _by_gap(differences: pl.DataFrame) -> list[str]:
    """Whether the advantage depends on the distance of the models; of the first methods, the table has all."""
    methods = methods_in_order(differences["method"])[:_METHODS_IN_A_LINE]
    return [text for method in methods for text in _of_gap(method, differences)]


def _of_gap(method: str, differences: pl.DataFrame) -> list[str]:
    rows = differences.filter(pl.col("method") == method)
    by_gap = (
        rows.filter(pl.col("size_gap").is_not_null() & pl.col("pgr_difference").is_not_null())
        .sort("size_gap")
        .to_dicts()
    )
    if len(by_gap) < 2:
        return []
    parts = [f"{row['size_gap']}: {signed(row, 'pgr_difference')} (n={row['n_pairs']})" for row in by_gap]
    reference = rows["reference"][0]
    return [f"By rungs between weak and strong, {method} minus {reference} in PGR is " + "; ".join(parts) + "."]


def _verdict(row: dict) -> str:
    if row["pgr_difference_low"] > 0:
        return "better"
    return "worse" if row["pgr_difference_high"] < 0 else "not told apart"


def _agreement(pairs: pl.DataFrame) -> list[str]:
    """The pair with the largest compute ratio, where agreement says most."""
    lines = []
    widest = pairs.filter(pl.col("size_gap") == pl.col("size_gap").max()).sort("weak_rung")
    for method in methods_in_order(widest["method"])[:_METHODS_IN_A_LINE]:
        row = widest.filter(pl.col("method") == method).row(0, named=True)
        if row["agreement_when_weak_right"] is None or row["agreement_when_weak_wrong"] is None:
            continue
        lines.append(
            f"Agreement of {row['strong']} with its supervisor {row['weak']} ({method}):"
            f" {estimated(row, 'agreement_when_weak_right')} where the supervisor is right,"
            f" {estimated(row, 'agreement_when_weak_wrong')} where it is wrong."
        )
    return lines


def _slopes(slopes: pl.DataFrame) -> list[str]:
    """Whether larger students imitate mistakes less, under the weakest supervisor with enough students."""
    if slopes.is_empty():
        return []
    weakest = slopes.filter(pl.col("weak_rung") == pl.col("weak_rung").min())
    per = {"compute": "per factor of ten in the student's compute", "parameters": "per factor of ten in its size"}
    axis = per.get(slopes["x_axis"][0], "per rung of the student")
    lines = []
    if text := _slope_of_each(weakest):
        lines.append(
            f"Agreement with the mistakes of {weakest['weak'][0]} changes {axis}: {text}; below zero, larger students"
            " imitate mistakes less."
        )
    if text := _slope_of_each(slopes.filter(pl.col("weak").is_null())):
        lines.append(f"The same of all supervisors with several students, each with a level of its own: {text}.")
    return lines


def _slope_of_each(slopes: pl.DataFrame) -> str:
    """The slopes of the first methods."""
    rows = {row["method"]: row for row in slopes.to_dicts() if row["slope"] is not None}
    shown = methods_in_order(rows)[:_METHODS_IN_A_LINE]
    more = f" (and {len(rows) - len(shown)} more methods in the table)" if len(rows) > len(shown) else ""
    return "; ".join(f"{method} {signed(rows[method], 'slope')}" for method in shown) + more


def _oracle(methods: pl.DataFrame) -> list[str]:
    """What the mark means, where there is one."""
    if not methods["oracle"].any():
        return []
    return [
        f"{ORACLE_MARK} marks a diagnostic that looked at ground truth beyond the supervisor's own data: its PGR is"
        " no method's, and it is drawn with hollow points."
    ]


def _baselines(methods: pl.DataFrame, differences: pl.DataFrame) -> list[str]:
    """Which methods are measured against a supervisor or ceiling of their own, and what that means for differences."""
    rows = methods.filter(pl.col("baseline") != OWN).select("method", "baseline").unique().sort("method")
    if rows.is_empty():
        return []
    whose = "; ".join(f"{method} (baseline {baseline})" for method, baseline in rows.iter_rows())
    text = f"Measured against a supervisor or ceiling of their own: {whose}."
    if set(differences["method"]) & set(rows["method"]):
        text += (
            " Their differences from the reference pair equal weak model, strong model and seeds, each PGR with its own"
            " supervisor and ceiling; a pair counts only where both have a gap."
        )
    return [text]
