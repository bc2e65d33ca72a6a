"""A search under way: it asks candidates of the study, has their runs executed, scores, stops and tells them.

The composite searcher of `w2s tune`: to the engine it is a `Feed` that grows the plan while that is executed. It knows
neither Ray nor Optuna. Scores are taken in the order of the instances, whatever order their runs end in, so that with
one candidate at a time the same search comes out each time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sweep.errors import SweepError
from sweep.execution.frontier import Frontier
from sweep.plan import Plan
from sweep.procedures import NotApplicableError
from sweep.state import State, stand
from sweep.storage.store import Store
from sweep.tuning.block import Tune
from sweep.tuning.candidate import entry_of
from sweep.tuning.objective import NoGapError, Scorer
from sweep.tuning.pruning import Pruner, pruner_of
from sweep.tuning.shared import Expanded, Shared
from sweep.tuning.study import Asked, Study, Trial
from w2s.errors import TrainingError, W2SError

SCORES, WORK, SECONDS = "scores", "new_work", "seconds"
"""Attributes of a candidate in the study: its scores in the order of instances, the estimated FLOPs of the runs that
were made for it, and the wall clock of the search since the candidate before it."""
FAILURES_IN_A_ROW = 3
"""So many failed candidates, with none that succeeded, are no accident."""


@dataclass
class _Underway:
    """A candidate whose runs are being executed."""

    number: int
    runs: Expanded
    scores: list[float] = field(default_factory=list)
    work: float = 0.0
    """Of the runs that were made for it so far."""


class Search:
    """One objective of a `tune:` block.

    Args:
        report: Called with a sentence whenever a candidate has ended.
        retry_failed: Runs that failed the same way every time are tried again.
    """

    def __init__(
        self,
        tune: Tune,
        study: Study,
        shared: Shared,
        scorer: Scorer,
        store: Store,
        *,
        report: Callable[[str], None] = lambda line: None,
        retry_failed: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tune, self._study, self._shared, self._scorer, self._store = tune, study, shared, scorer, store
        self._pruner: Pruner = pruner_of(tune)
        self._report = report
        self._retry_failed = retry_failed
        self._clock = clock
        self._underway: dict[int, _Underway] = {}
        self._scores: dict[int, Sequence[float]] = {}
        self._done: set[str] = set()
        trials = study.trials()
        for trial in trials:
            if trial.state != "running":
                self._scores[trial.number] = trial.attrs.get(SCORES, [])
        self._told = len(self._scores)
        self._succeeded = sum(trial.state == "complete" for trial in trials)
        self._failed_in_a_row = 0
        self._told_work = sum(trial.attrs.get(WORK, 0.0) for trial in trials if trial.state != "running")
        self._begun_work = {t.number: t.attrs.get(WORK, 0.0) for t in trials if t.state == "running"}
        self._asked_by: dict[str, int] = {}
        """Run that is not yet made -> the candidate that asked for it first."""
        self._late_work = 0.0
        """Of runs that ended after their candidate did; the next one to end has it."""
        self._spent_seconds = sum(trial.attrs.get(SECONDS, 0.0) for trial in trials)
        self._mark = clock()
        self._to_adopt = list(study.adopt())
        self.ended_because = ""
        """Why no more candidates are asked, as a sentence; empty while they are."""
        self.problem = ""
        """What went wrong with a run that every candidate needs."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do; then `ended_because` says why."""
        self.ended_because = "" if self._to_adopt or self._underway else self._why_over()
        return bool(self.ended_because)

    # -- what the engine calls -----------------------------------------------------------------------------------

    def attach(self, frontier: Frontier) -> None:
        self._frontier = frontier
        self._done |= self._shared.needed - frontier.todo

    def refill(self) -> None:
        """Ask for candidates until a run is ready, or enough are under way, or the search is over."""
        self._study.beat()
        while self._frontier.n_ready == 0 and len(self._underway) < self._tune.concurrent and not self.problem:
            asked = self._next()
            if asked is None:
                return
            self._start(asked)

    def ended(self, run_id: str) -> None:
        """A run is done, or has failed for good."""
        number = self._asked_by.pop(run_id, None)
        if run_id in self._frontier.done:
            self._done.add(run_id)
            if number is not None:
                work = self._frontier.plan.runs[run_id].work
                if number in self._underway:
                    self._underway[number].work += work
                else:
                    self._late_work += work
        elif run_id in self._shared.needed:
            label = self._frontier.plan.runs[run_id].label
            self.problem = self.problem or f"every candidate needs '{label}', which failed"
            return
        for candidate in list(self._underway.values()):
            self._advance(candidate)

    # -- candidates ----------------------------------------------------------------------------------------------

    def _next(self) -> Asked | None:
        if self._to_adopt:
            return self._to_adopt.pop(0)
        self.ended_because = self._why_over()
        if self.ended_because:
            return None
        return self._study.ask()

    def _why_over(self) -> str:
        budget, asked = self._tune.budget, self._told + len(self._underway)
        seconds = self._spent_seconds + self._clock() - self._mark
        if self._failed_in_a_row >= FAILURES_IN_A_ROW and not self._succeeded:
            return f"{self._failed_in_a_row} candidates failed one after the other, and none succeeded"
        if budget.trials is not None and asked >= budget.trials:
            return f"the budget of {budget.trials:,} trials is used up"
        if budget.flops is not None and self._work >= budget.flops:
            return f"the budget of {budget.flops:.3g} FLOPs is used up"
        if budget.hours is not None and seconds >= budget.hours * 3600:
            return f"the budget of {budget.hours:g} hours is used up"
        return "every candidate of the space was tried" if self._study.is_exhausted else ""

    @property
    def _work(self) -> float:
        """Estimated FLOPs of the candidates' own runs, made or asked for."""
        outstanding = sum(self._frontier.plan.runs[run_id].work for run_id in self._asked_by)
        return self._told_work + self._late_work + sum(c.work for c in self._underway.values()) + outstanding

    def _start(self, asked: Asked) -> None:
        try:
            entry = entry_of(self._tune.method, asked.params)
            runs = self._shared.expand(entry)
        except (NotApplicableError, SweepError, W2SError) as error:
            self._tell(asked.number, None, "failed", reason=str(error))
            return
        plan = Plan(runs=dict(self._shared.runs()), pairs=(), requested=0)
        family = plan.with_ancestors(run_id for run_id, _ in runs.students)
        standings = stand(
            Plan(runs={i: run for i, run in plan.runs.items() if i in family}, pairs=(), requested=0), self._store
        )
        given_up = [i for i in runs.own if standings[i].state == State.GIVEN_UP and not self._retry_failed]
        if given_up:
            run_id = min(given_up)
            reason = f"{plan.runs[run_id].label}: {standings[run_id].reason}; --retry-failed tries it again"
            self._tell(asked.number, None, "failed", reason=reason)
            return
        waiting = runs.own - self._frontier.todo
        there = [run_id for run_id in waiting if standings[run_id].state == State.DONE]
        _, damaged = self._store.survey(there, verify=True)
        todo = set()
        for run_id in waiting:
            if standings[run_id].set_aside or run_id in damaged:
                self._store.quarantine(run_id)
                todo.add(run_id)
            elif standings[run_id].state == State.DONE:
                self._done.add(run_id)
            else:
                todo.add(run_id)
        self._asked_by |= dict.fromkeys(todo, asked.number)
        self._frontier.extend(plan, todo, in_turn=True)
        candidate = _Underway(asked.number, runs, work=self._begun_work.pop(asked.number, 0.0))
        self._underway[asked.number] = candidate
        self._advance(candidate)

    def _advance(self, candidate: _Underway) -> None:
        """Score what is there of a candidate, instance after instance, and end it if it has all or is to be stopped."""
        lost = candidate.runs.own & (self._frontier.failed.keys() | self._frontier.blocked)
        if lost:
            failed = [i for i in lost if i in self._frontier.failed]
            if not failed:  # blocked by a run that every candidate needs, which is said once
                return
            run = self._frontier.plan.runs[min(failed)]
            message = self._frontier.failed[run.run_id]
            # Diverging belongs to the settings: stopped, it tells the sampler to stay away; a failure would not.
            state = "pruned" if self._diverged(run.run_id) else "failed"
            self._end(candidate, None, state, reason=f"{run.label}: {message}")
            return
        n = len(self._scorer.instances)
        while len(candidate.scores) < n and self._is_there(candidate, len(candidate.scores)):
            index = len(candidate.scores)
            student_id, setting = candidate.runs.students[index]
            score = self._scorer.score(index, student_id, labels_id=setting.labels.run_id, stop=setting.stop)
            candidate.scores.append(score)
            self._study.note(candidate.number, **{SCORES: candidate.scores, WORK: candidate.work})
            self._scores[candidate.number] = candidate.scores
            why = self._pruner.stop(candidate.scores, self._rivals(candidate.number), n_instances=n)
            if why:
                self._end(candidate, self._so_far(candidate), "pruned", reason=why)
                return
        if len(candidate.scores) == n:
            self._end(candidate, self._values(candidate), "complete")

    def _diverged(self, run_id: str) -> bool:
        failures = self._store.failures(run_id)
        return bool(failures) and failures[-1].kind == TrainingError.__name__

    def _is_there(self, candidate: _Underway, index: int) -> bool:
        """Whether all that the score of an instance is made from is done."""
        instance = self._scorer.instances[index]
        wanted = {candidate.runs.students[index][0], instance.supervisor_id, *instance.others}
        if self._scorer.uses_ceiling:
            wanted.add(instance.ceiling_id)
        return wanted <= self._done

    def _rivals(self, number: int) -> Mapping[int, Sequence[float]]:
        return {other: scores for other, scores in self._scores.items() if other != number and scores}

    def _values(self, candidate: _Underway) -> list[float]:
        value = self._scorer.value(candidate.scores)
        return [value, self._flops(candidate)] if self._tune.minimize_flops else [value]

    def _so_far(self, candidate: _Underway) -> list[float] | None:
        """The value over the instances that a stopped candidate has; there may be no gap on these few."""
        try:
            return [self._scorer.value(candidate.scores)]
        except NoGapError:
            return None

    def _flops(self, candidate: _Underway) -> float:
        """Mean finetuning FLOPs of a student with the links of its chain, as measured."""
        total = sum(
            self._store.read_json(run_id, "metrics.json").get("finetune_flops") or 0.0
            for run_id in sorted(candidate.runs.own)
        )
        return total / len(self._scorer.instances)

    def _end(self, candidate: _Underway, values: Sequence[float] | None, state: str, *, reason: str = "") -> None:
        del self._underway[candidate.number]
        others = {run_id: other.number for other in self._underway.values() for run_id in other.runs.own}
        self._frontier.withdraw(candidate.runs.own - others.keys())
        for run_id in [i for i, number in self._asked_by.items() if number == candidate.number]:
            if run_id in others:
                self._asked_by[run_id] = others[run_id]
            elif run_id not in self._frontier.running:
                del self._asked_by[run_id]
        attrs = {"flops": self._flops(candidate)} if state == "complete" else {}
        attrs[WORK], self._late_work = candidate.work + self._late_work, 0.0
        self._told_work += attrs[WORK]
        self._tell(candidate.number, values, state, reason=reason, step=len(candidate.scores), **attrs)

    def _tell(
        self,
        number: int,
        values: Sequence[float] | None,
        state: str,
        *,
        reason: str = "",
        step: int = 0,
        **attrs: float,
    ) -> None:
        now = self._clock()
        seconds, self._mark = now - self._mark, now
        self._spent_seconds += seconds
        attrs |= {SECONDS: seconds}
        self._study.tell(number, values, state, step=step, reason=reason, **attrs)  # type: ignore[arg-type]
        self._told += 1
        self._scores.setdefault(number, [])
        self._succeeded += state == "complete"
        self._failed_in_a_row = self._failed_in_a_row + 1 if state == "failed" else 0
        self._report(_sentence(number, values, state, reason))


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete candidate with the largest value; of equals the one with fewest FLOPs, then the earliest."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.values]
    return min(complete, key=lambda t: (-t.values[0], *t.values[1:], t.number), default=None)  # type: ignore[index]


def front_of(trials: Sequence[Trial]) -> list[Trial]:
    """The complete candidates that no other one beats in value at no more FLOPs, cheapest first."""
    complete = [t for t in trials if t.state == "complete" and t.values and len(t.values) == 2]
    front: list[Trial] = []
    for trial in sorted(complete, key=lambda t: (t.values[1], -t.values[0], t.number)):  # type: ignore[index]
        if not front or trial.values[0] > front[-1].values[0]:  # type: ignore[index]
            front.append(trial)
    return front


def _sentence(number: int, values: Sequence[float] | None, state: str, reason: str) -> str:
    text = f"candidate {number} {state}"
    if values:
        text += f" at {values[0]:.4g}"
    return f"{text}: {reason}" if reason else text
