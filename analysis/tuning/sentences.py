"""What a search and its fresh instances say, in plain sentences. For terminal and report alike."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from analysis.estimates import ORACLE_MARK, REFERENCE_METHOD
from analysis.intervals import FEW_SEEDS
from analysis.tuning.candidates import best_candidates, chains, most_important
from analysis.tuning.fresh import MATCHED_NAIVE, OTHER_FINETUNING, Contender, Fresh
from analysis.tuning.reading import StudyFiles, TuningFiles, params_of, settings_in_words
from analysis.wording import counted, estimated, in_points, listed, over_all, signed

_IMPORTANT_SHOWN = 3
_WORDS = {
    "pgr": "PGR",
    "weak_log_loss": "log loss against weak labels (its negative)",
    "log_loss": "log loss (its negative)",
}


def summary_lines(files: TuningFiles, fresh: Fresh) -> list[str]:
    """Everything: what was searched, what each study found, what holds on fresh instances, what went wrong."""
    lines = about(files)
    for study in files.studies:
        lines += study_lines(study, files)
    return [*lines, *same_winner(files), *fresh_lines(files, fresh), *problems(files, fresh)]


def problems(files: TuningFiles, fresh: Fresh) -> list[str]:
    """What a reader must know before trusting the numbers."""
    return [
        text[0].upper() + text[1:] + ("" if text.endswith(".") else ".") for text in (*files.problems, *fresh.problems)
    ]


def about(files: TuningFiles) -> list[str]:
    """The method, the space, the instances and how it was searched."""
    summary = files.summary
    instances = summary.get("instances") or []
    pairs, tasks, seeds = (
        len({tuple(i[key] for key in keys) for i in instances}) for keys in (("weak", "strong"), ("task",), ("seed",))
    )
    parts = f"{counted(pairs, 'pair')} x {counted(tasks, 'task')} x {counted(seeds, 'seed')}"
    if pairs * tasks * seeds != len(instances):
        parts = f"of {counted(pairs, 'pair')}, {counted(tasks, 'task')}, {counted(seeds, 'seed')}"
    budget = ", ".join(f"{key} {value:,g}" for key, value in (summary.get("budget") or {}).items() if value is not None)
    how = f"sampler {summary.get('sampler', 'unknown')}, pruner {summary.get('pruner', 'unknown')}"
    if summary.get("concurrent"):
        how += f", {counted(summary['concurrent'], 'candidate')} at once"
    return [
        f"Method {summary.get('method', 'unknown')}, {counted(len(files.parameters), 'parameter')} searched"
        f" ({', '.join(p.name for p in files.parameters) or 'none'}); {how}; budget: {budget or 'none given'}.",
        f"Candidates are judged on {counted(len(instances), 'instance')} ({parts}), on validation; test is"
        " not looked at.",
    ]


def study_lines(study: StudyFiles, files: TuningFiles) -> list[str]:
    """What one search found."""
    return [
        _base(study),
        *_noisy_gap(study),
        *_cost(study, files),
        *_best(study, files),
        *_importances(study, files),
        *_chains(study, files),
        *_front(study),
    ]


def _title(study: StudyFiles) -> str:
    return f"Objective {study.objective}" + (f" {ORACLE_MARK}" if study.oracle else "")


def _base(study: StudyFiles) -> str:
    counts = [(study.of_state(state).height, words) for state, words in _STATES]
    told = ", ".join(f"{n} {words}" for n, words in counts if n) or "none yet"
    text = f"{_title(study)}: {study.metric}"
    text += f" ({study.meaning})" if study.meaning else ""
    text += f"; {counted(study.trials.height, 'candidate')}"
    text += f": {told}." if study.trials.height else " yet."
    return text + (f" It ended: {study.ended.rstrip('.')}." if study.ended else "")


_STATES = (
    ("complete", "complete"),
    ("pruned", "stopped early"),
    ("failed", "failed"),
    ("running", "still under way"),
)


def _noisy_gap(study: StudyFiles) -> list[str]:
    """PGR divides by a gap: one within twice its standard error sqrt(2 x 0.25 / n), that of two shares near a half,
    may as well be zero."""
    weak, ceiling, n = (study.gap.get(key) for key in ("weak", "ceiling", "n_examples"))
    if study.metric != "pgr" or weak is None or ceiling is None or not n:
        return []
    gap, error = ceiling - weak, (2 * 0.25 / n) ** 0.5
    if gap >= 2 * error:
        return []
    return [
        f"PGR on validation is unreliable here: the gap from weak {weak:.3f} to ceiling {ceiling:.3f} is {gap:.3f},"
        f" below twice its standard error ({error:.3f} with {counted(n, 'example')}). PGR divides by the gap, so the"
        " winner may owe its value to noise; more validation examples, wider pairs or the metric accuracy would help."
    ]


def _cost(study: StudyFiles, files: TuningFiles) -> list[str]:
    parts = []
    if study.spent.get("work") == 0 and study.of_state("complete", "pruned").is_empty():
        parts.append("no FLOPs of new runs")
    elif study.spent.get("work") == 0:
        why = "were made by the other search" if _all_made_by_another(study, files) else "were in the storage already"
        parts.append(f"no FLOPs of new runs, because all {why}")
    elif study.spent.get("work") is not None:
        parts.append(f"{_power(study.spent['work'])} FLOPs of new runs (estimated)")
    if study.spent.get("seconds") is not None:
        parts.append(f"{_duration(study.spent['seconds'])} of wall clock")
    text = f"Spent: {', '.join(parts)}." if parts else ""
    shared = [f"{n} {kind.replace('_', ' ')}" for kind, n in study.shared_runs.items() if n]
    if shared and study.candidate_runs:
        text += f" Its {counted(study.candidate_runs, 'candidate run')} share {listed(shared)}, trained once."
    return [text.strip()] if text else []


def _all_made_by_another(study: StudyFiles, files: TuningFiles) -> bool:
    """Whether another search of the two met each of these candidates on as many instances, with new runs."""
    made = [
        (params_of(row), row["n_instances"] or 0)
        for other in files.studies
        if other.objective != study.objective
        for row in other.of_state("complete", "pruned").filter(pl.col("new_work") > 0).iter_rows(named=True)
    ]
    return all(
        any(params == params_of(row) and n >= (row["n_instances"] or 0) for params, n in made)
        for row in study.of_state("complete", "pruned").iter_rows(named=True)
    )


def _power(flops: float) -> str:
    mantissa, exponent = f"{flops:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _best(study: StudyFiles, files: TuningFiles) -> list[str]:
    winner, default = study.candidate(study.best), study.candidate(study.default)
    if winner is None:
        reasons = study.of_state("failed")["reason"].drop_nulls().unique().sort().to_list()[:3]
        why = f" Why candidates failed: {'; '.join(reasons)}." if reasons else ""
        return [f"No candidate is complete, so there is no winner.{why}"]
    names = [p.name for p in files.parameters]
    words = settings_in_words(params_of(winner), names)
    text = f"Winner: candidate {study.best} with {words or 'nothing set'}; {study.metric} {winner['value']:.4g}"
    if study.best == study.default:
        return [f"{text}. That is the default configuration: the search found nothing better."]
    if default is None or default["value"] is None:
        return [f"{text}. The default configuration is not among the candidates, so the search has no gain to tell."]
    text += f", default {default['value']:.4g} (candidate {study.default})"
    row = best_candidates(study, files.parameters, 1).row(0, named=True)
    if row["n_common"]:
        text += f"; above the default on {row['n_better']} of {counted(row['n_common'], 'common instance')}"
    return [
        f"{text}. Values of a search have no interval, because the winner was chosen for its value; fresh instances"
        " tell its worth."
    ]


def _importances(study: StudyFiles, files: TuningFiles) -> list[str]:
    rows = study.importances.filter((pl.col("of") == "value") & pl.col("importance").is_not_null())
    if rows.is_empty():
        note = study.importances_note or "the study gives none"
        return [f"Importances of parameters: {note.rstrip('.')}."]
    known = dict(rows.select("parameter", "importance").iter_rows())
    shown = [f"{p.name} {known[p.name]:.2f}" for p in most_important(study, files.parameters) if p.name in known]
    return [f"Most important for the value (PED-ANOVA, shares): {', '.join(shown[:_IMPORTANT_SHOWN])}."]


def _chains(study: StudyFiles, files: TuningFiles) -> list[str]:
    lines = []
    for (name,), rows in chains(study, files.parameters).group_by("parameter", maintain_order=True):
        if rows.height < 2:
            continue
        best, worst = rows.sort("mean").row(-1, named=True), rows.sort("mean").row(0, named=True)
        lines.append(
            f"{name}: highest mean value with {best['chain']} ({best['mean']:.4g}, n={best['n']}), lowest with"
            f" {worst['chain']} ({worst['mean']:.4g}, n={worst['n']}); candidates with a chain differ in their other"
            " parameters too, and the search tries more of what looked good."
        )
    return lines


def _front(study: StudyFiles) -> list[str]:
    if not study.minimize_flops:
        return []
    rows = study.of_state("complete").filter(pl.col("number").is_in(list(study.front))).sort("flops")
    if rows.is_empty():
        return ["The Pareto front is empty: no candidate is complete."]
    if rows.height == 1:
        return [f"One candidate, {rows['number'][0]}, is best in value and in FLOPs, so the Pareto front is that one."]
    first, last = rows.row(0, named=True), rows.row(-1, named=True)
    return [
        f"The Pareto front has {rows.height} candidates, from {study.metric} {first['value']:.4g} at"
        f" {_power(first['flops'])} finetuning FLOPs of a student to {last['value']:.4g} at {_power(last['flops'])}."
    ]


def same_winner(files: TuningFiles) -> list[str]:
    """Whether two searches agree."""
    winners = [(study, row) for study in files.studies if (row := study.candidate(study.best))]
    if len(winners) < 2:
        return []
    if all(study.best == study.default for study, _ in winners):
        return ["Both searches chose the default configuration: here ground truth on validation changes nothing."]
    if params_of(winners[0][1]) == params_of(winners[1][1]):
        return ["Both searches chose the same configuration: here ground truth on validation changes nothing."]
    return []


# --- fresh instances -------------------------------------------------------------------------------------------------


def fresh_lines(files: TuningFiles, fresh: Fresh) -> list[str]:
    """What holds on instances that the search did not use."""
    if fresh.is_empty:
        why = "" if files.summary.get("fresh") else ": the search has no winner yet, or it has not been trained there"
        return [f"Nothing is known about fresh instances yet{why}. What the search says of its winner is too good."]
    return [
        _fresh_base(files, fresh),
        *_earlier_winners(files, fresh),
        *_looked_before(files),
        *_gains(fresh),
        *_transfer(fresh),
        *_oracle_minus_weak(fresh),
        *(text for c in _told(fresh) for text in _contender(c.name, fresh)),
        *(text for study in files.studies for text in _winners_curse(study, fresh)),
    ]


def _earlier_winners(files: TuningFiles, fresh: Fresh) -> list[str]:
    """Where the fresh instances are of an earlier session: whose they are."""
    best = {study.objective: study.best for study in files.studies}
    stale = bool((files.summary.get("fresh") or {}).get("stale"))
    parts, others = [], False
    for contender in (c for c in fresh.contenders if c.role == "tuned" and c.objective in best):
        now = best[contender.objective or ""]
        if contender.number == now and now is not None:
            parts.append(f"{contender.name} is candidate {now}, still the winner")
            continue
        others = True
        was = "a winner of that time" if contender.number is None else f"candidate {contender.number}"
        is_now = "the search has no winner now" if now is None else f"the winner is candidate {now} now"
        parts.append(f"{contender.name} is {was} there, while {is_now}")
    if others:
        of = "These fresh instances are of an earlier session; its winners are not the present best"
        return [f"{of}: {'; '.join(parts)}. What follows is about the earlier ones."]
    return ["These fresh instances are of an earlier session; the search has gone on since."] if stale else []


def _looked_before(files: TuningFiles) -> list[str]:
    """A choice made after a look at test is no longer blind."""
    fresh = files.summary.get("fresh") or {}
    winners = fresh.get("winners") or {}
    seen: dict[str, set[int]] = {}
    for earlier in fresh.get("looked_before") or ():
        for objective, number in (earlier or {}).items():
            if number is not None and number != winners.get(objective):
                seen.setdefault(objective, set()).add(int(number))
    if not seen:
        return []
    who = "; ".join(
        f"{objective}: {'candidate' if len(numbers) == 1 else 'candidates'} {listed(map(str, sorted(numbers)))}"
        for objective, numbers in seen.items()
    )
    return [
        "These fresh instances have been looked at for"
        f" {counted(sum(map(len, seen.values())), 'other winner')} before ({who}); a choice among them is no longer"
        " blind."
    ]


def _fresh_base(files: TuningFiles, fresh: Fresh) -> str:
    seeds = (files.summary.get("fresh") or {}).get("seeds") or []
    rows = fresh.methods.filter(pl.col("task").is_null())
    n_pairs = max(rows["n_pairs"])
    few = ""
    if fresh.n_seeds == 1:
        few = " With one seed intervals cover test examples only; another seed may well fall outside."
    elif fresh.n_seeds < FEW_SEEDS:
        few = f" With fewer than {FEW_SEEDS} seeds intervals are wide and rough."
    return (
        f"Fresh instances: {counted(n_pairs, 'pair')} x {counted(len(seeds) or fresh.n_seeds, 'seed')}"
        f" ({listed([str(seed) for seed in seeds]) if seeds else 'not named'}), scored on {fresh.n_test:,} test"
        f" examples; square brackets hold {fresh.options.level * 100:g} % intervals from {fresh.options.draws:,} joint"
        f" resamples.{few}"
    )


def _contender(name: str, fresh: Fresh) -> list[str]:
    rows = {
        row["ceiling"]: row
        for row in fresh.methods.filter((pl.col("contender") == name) & pl.col("task").is_null()).iter_rows(named=True)
    }
    reference, matched = rows["reference"], rows.get("matched")
    text = f"{name}: accuracy {estimated(reference, 'accuracy')} {over_all(reference['n_pairs'], 'pair')}"
    if reference["pgr"] is None:
        return [f"{text}; the mean gap cannot be told from zero, so there is no PGR."]
    text += f", PGR of mean accuracies {estimated(reference, 'pgr')} against the reference ceiling"
    if matched is None:
        return [f"{text}; its matched ceiling is not trained yet."]
    if matched["method"] == reference["method"]:
        return [text + (", which is also the matched one." if name.startswith("tuned") else ".")]
    if matched["pgr"] is None:
        return [f"{text}; against the matched one, finetuned as it is, the mean gap cannot be told from zero."]
    where = "" if matched["n_pairs"] == reference["n_pairs"] else f" (over {counted(matched['n_pairs'], 'pair')})"
    return [f"{text}, {estimated(matched, 'pgr')} against the matched one, finetuned as it is{where}."]


def _verdict(row: Mapping[str, Any], name: str) -> str:
    if row[f"{name}_low"] > 0:
        return "better"
    return "worse" if row[f"{name}_high"] < 0 else "not told apart"


def _row(fresh: Fresh, pairs: str, contender: str, reference: str = "default") -> dict[str, Any] | None:
    rows = fresh.differences.filter(
        (pl.col("pairs") == pairs)
        & pl.col("task").is_null()
        & (pl.col("contender") == contender)
        & (pl.col("reference") == reference)
    )
    return rows.row(0, named=True) if rows.height else None


def _told(fresh: Fresh) -> list[Contender]:
    """Who gets sentences: winners and the default; candidates of a front only where there are no winners."""
    apart = (MATCHED_NAIVE, "front") if fresh.named("tuned") else (MATCHED_NAIVE,)
    return [contender for contender in fresh.contenders if contender.role not in apart]


def _gains(fresh: Fresh) -> list[str]:
    lines = []
    for contender in _told(fresh):
        row = _row(fresh, "all", contender.name)
        if row is None:
            continue
        if _is_default(contender, fresh):
            which = "" if contender.number is None else f" (candidate {contender.number})"
            lines.append(f"{contender.name}{which} is the default configuration, so they do not differ.")
            continue
        text = (
            f"{contender.name} minus default, paired: accuracy {in_points(row, 'accuracy_difference')} points"
            f" {_over(row, fresh)} ({_verdict(row, 'accuracy_difference')})"
        )
        if row["pgr_difference"] is not None:
            text += f", PGR of mean accuracies {signed(row, 'pgr_difference')} against the reference ceiling"
        lines.append(f"{text}.")
    return [*lines, *_minus_matched_naive(fresh), *_minus_naive(fresh)]


def _minus_matched_naive(fresh: Fresh) -> list[str]:
    """What the method adds by itself."""
    parts = []
    for contender in _told(fresh):
        for other in (c for c in fresh.contenders if c.role == MATCHED_NAIVE):
            row = _row(fresh, "all", contender.name, other.name)
            if row is not None and not fresh.same(contender, other):
                verdict = _verdict(row, "accuracy_difference")
                difference = in_points(row, "accuracy_difference")
                parts.append(f"{contender.name} {difference} points {_over(row, fresh)} ({verdict})")
    if not parts:
        return []
    return [
        f"Minus {REFERENCE_METHOD} with the same finetuning settings, accuracy (the clean comparison: only the method"
        f" differs): {'; '.join(parts)}."
    ]


def _minus_naive(fresh: Fresh) -> list[str]:
    parts = []
    for contender in _told(fresh):
        row = _row(fresh, "all", contender.name, REFERENCE_METHOD)
        if row is not None:
            note = f" ({OTHER_FINETUNING})" * contender.changes_finetuning
            parts.append(f"{contender.name} {in_points(row, 'accuracy_difference')} points {_over(row, fresh)}{note}")
    return (
        [f"Minus {REFERENCE_METHOD} finetuning on the same weak labels, accuracy: {'; '.join(parts)}."] if parts else []
    )


def _over(row: Mapping[str, Any], fresh: Fresh) -> str:
    """All pairs, or those that both have: a chain needs a rung between weak and strong."""
    sides = (pl.col("contender").is_in([row["contender"], row["reference"]])) & (pl.col("ceiling") == "reference")
    most = max(fresh.methods.filter(sides & pl.col("task").is_null())["n_pairs"])
    n = row["n_pairs"]
    return over_all(n, "pair") if n == most else f"over the {counted(n, 'pair')} of {most} that both have"


def _is_default(contender: Contender, fresh: Fresh) -> bool:
    default = fresh.named("default")
    return default is not None and contender is not default and fresh.same(contender, default)


def _transfer(fresh: Fresh) -> list[str]:
    """Whether the gain holds for the largest student."""
    lines = []
    for contender in fresh.contenders:
        row = _row(fresh, "largest", contender.name)
        if contender.role != "tuned" or row is None or _is_default(contender, fresh):
            continue
        own = fresh.pairs.filter((pl.col("contender") == contender.name) & (pl.col("reference") == "default"))
        largest = own.filter(pl.col("largest"))
        names = listed(sorted(set(largest["strong"])))
        used = set(largest["searched"])
        whose = {
            (True,): "which the search used, at other seeds",
            (False,): "which the search did not use",
            (False, True): "of which the search used some",
        }[tuple(sorted(used))]
        says = {
            "better": "the gain holds there" if _gained(fresh, contender.name) else "there is a gain there",
            "worse": "there it is a loss",
            "not told apart": "no difference there that can be told from zero",
        }[_verdict(row, "accuracy_difference")]
        lines.append(
            f"At the largest student ({names}; {counted(row['n_pairs'], 'pair')}, {whose}), {contender.name} minus"
            f" default is {in_points(row, 'accuracy_difference')} points of accuracy: {says}."
        )
        seen, unseen = (_row(fresh, group, contender.name) for group in ("searched", "not searched"))
        if seen and unseen:
            lines.append(
                f"At the {counted(seen['n_pairs'], 'pair')} of the search the difference is"
                f" {in_points(seen, 'accuracy_difference')} points, at the {counted(unseen['n_pairs'], 'pair')} that it"
                f" did not use {in_points(unseen, 'accuracy_difference')}."
            )
    return lines


def _gained(fresh: Fresh, name: str) -> bool:
    row = _row(fresh, "all", name)
    return row is not None and row["accuracy_difference_low"] > 0


def _oracle_minus_weak(fresh: Fresh) -> list[str]:
    oracle, weak = fresh.named("tuned", "oracle"), fresh.named("tuned", "weak")
    if oracle is None or weak is None:
        return []
    if fresh.same(oracle, weak):
        which = ", the default configuration" if _is_default(weak, fresh) else ""
        return [f"The oracle helps by nothing: both searches have the same winner{which}."]
    row = _row(fresh, "all", oracle.name, weak.name)
    if row is None:
        return []
    verdict = _verdict(row, "accuracy_difference")
    says = {
        "better": "ground truth on validation would help that much",
        "worse": "it does not help here",
        "not told apart": "no help that can be told from zero",
    }[verdict]
    return [
        f"{oracle.name} minus {weak.name}: accuracy {in_points(row, 'accuracy_difference')} points"
        f" {_over(row, fresh)}: {says}."
    ]


def _winners_curse(study: StudyFiles, fresh: Fresh) -> list[str]:
    rows = fresh.search.filter(pl.col("objective") == study.objective)
    if rows.is_empty():
        return []
    row = rows.row(0, named=True)
    if row["search_tuned"] is None:
        return []
    metric = _WORDS.get(study.metric, study.metric)
    best_of = counted(row["n_candidates"], "candidate")
    text = f"Winner's curse, {row['contender']}: the best of {best_of} tends to look better than it is."
    if row["fresh_tuned"] is None:
        note = f" ({row['note'].rstrip('.')})" if row["note"] else ""
        return [
            f"{text} Its {metric} in the search is {row['search_tuned']:.3f}; on fresh instances it is not known{note}."
        ]
    where = "the same pairs at fresh seeds" if row["same_pairs"] else "the fresh pairs"
    text += (
        f" Its {metric} is {row['search_tuned']:.3f} on validation in the search, {estimated(row, 'fresh_tuned')} on"
        f" test with {where}"
    )
    contender = fresh.named("tuned", study.objective)
    gains = contender is not None and not _is_default(contender, fresh)
    if gains and row["search_gain"] is not None and row["fresh_gain"] is not None:
        text += (
            f"; its gain over the default {row['search_gain']:+.3f} in the search, {signed(row, 'fresh_gain')} there"
        )
    return [f"{text}."]


def caption_of_search(studies: Sequence[StudyFiles], instances: int) -> str:
    """What stands behind the values of a search."""
    text = (
        f"Values are means over {counted(instances, 'instance')} on validation, as the search saw them; no intervals."
    )
    if any(study.of_state("pruned").height for study in studies):
        text += " Crosses: stopped early, the value of what they had been given until then."
    if any(study.oracle for study in studies):
        text += f" Hollow, {ORACLE_MARK}: the search looked at ground truth; a diagnostic."
    return text
