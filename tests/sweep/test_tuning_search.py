"""A search from its spec to its end, its runs executed one after the other in this process, without Ray."""

import io
import json
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from analysis import metrics
from sweep.errors import SpecError
from sweep.execution.execute import Placement, execute
from sweep.execution.frontier import Frontier
from sweep.plan import Run
from sweep.planner import build_plan
from sweep.session import Session
from sweep.state import State, stand
from sweep.tuning.candidate import default_params, entry_of
from sweep.tuning.fresh import Winner, as_mapping, exported, fresh_methods, fresh_spec, written
from sweep.tuning.objective import NoGapError, Scorer
from sweep.tuning.search import SCORES, Search, best_of, front_of
from sweep.tuning.session import TuneSession
from sweep.tuning.shared import Shared, narrowed
from sweep.tuning.study import Study
from tests.w2s.stand_ins import make_checkpoint, make_task
from w2s.errors import TrainingError
from w2s.kinds.common import RunResult
from w2s.tasks import load_task

WIDTHS = (8, 16, 24)
TUNE: dict[str, Any] = {
    "method": "confidence",
    "space": {"method.max_weight": {"low": 0.0, "high": 1.0}, "finetune.epochs": {"low": 1, "high": 3}},
    "instances": {"pairs": [["w8", "w16"], ["w8", "w24"], ["w16", "w24"]]},
    "fresh": {"seeds": [5]},
    "budget": {"trials": 6},
    "concurrent": 1,
    "pruner": "none",
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return [make_checkpoint(folder / f"w{width}", width=width, seed=width) for width in WIDTHS]


@pytest.fixture
def open_tune(tmp_path, checkpoints):
    """Writes and opens a sweep of three local checkpoints with some keys of its `tune:` block changed."""

    def write(where: str = "here", rows: Callable[[list[dict]], list[dict]] = list, **changes: Any) -> TuneSession:
        folder = tmp_path / where
        task = make_task(folder, n=300)
        file = Path(task.train[0])
        read = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(read)))
        spec = {
            "name": "tiny",
            "storage": str(folder / "results"),
            "ladder": {
                "rungs": [
                    {"name": f"w{w}", "model": p, "pretrain_tokens": 1e6}
                    for w, p in zip(WIDTHS, checkpoints, strict=True)
                ]
            },
            "tasks": [task.model_dump(mode="json", exclude_defaults=True) | {"name": "words", "source": "files"}],
            "finetune": {"learning_rate": 1e-2, "batch_size": 16, "epochs": 1, "max_length": 24},
            "tune": TUNE | changes,
        }
        path = folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(spec))
        return TuneSession.open(str(path), None)

    return write


class Killed(Exception):
    """The driver is gone."""


class RunFailedError(Exception):
    """A run went wrong."""


def drive(
    session: TuneSession,
    *,
    science: Any = None,
    executed: list[Run] | None = None,
    kill_after: int | None = None,
    failing: Callable[[Run], bool] = lambda run: False,
) -> tuple[Study, Search, Shared]:
    """Search as `w2s tune` does, with runs executed one after the other."""
    judge = session.tune.judges[0]
    shared = session.shared(judge)
    store = session.store
    study = Study.open(store, session.name_of(judge), session.tune, directions=["maximize"])
    default = default_params(session.tune, session.spec)
    if default is not None:
        study.enqueue(default)
    scorer = Scorer(store, session.tune.metrics[judge], shared.instances)
    search = Search(session.tune, study, shared, scorer, store)
    plan = shared.plan
    todo = {i for i, s in stand(plan, store).items() if s.state != State.DONE}
    frontier = Frontier(plan, frozenset(todo))
    search.attach(frontier)
    count = 0
    while True:
        search.refill()
        run_id = frontier.pop()
        if run_id is None:
            assert frontier.finished
            return study, search, shared
        run = frontier.plan.runs[run_id]
        if executed is not None:
            executed.append(run)
        count += 1
        if count == kill_after:
            study.close()
            raise Killed
        try:
            if failing(run):
                raise RunFailedError("it is cursed")
            execute(run, store, Placement(), science)
            frontier.succeed(run_id)
        except (RunFailedError, TrainingError) as error:
            frontier.fail(run_id, str(error))
        search.ended(run_id)


def made_up(accuracy: Callable[[Run], float], *, n: int = 400) -> Any:
    """Science that leaves predictions with an accuracy of our choice, the same examples wrong for every run."""

    def science(run: Run, store: Any, placement: Any, pulse: Any) -> RunResult:
        frames = []
        for split in ("validation", "test", "transfer/0"):
            rng = np.random.default_rng([len(split), n])
            gold = rng.integers(0, 2, n)
            hard = rng.random(n)
            right = hard < accuracy(run)
            prediction = np.where(right, gold, 1 - gold)
            frames.append(
                pl.DataFrame(
                    {
                        "example_id": [f"{split}{i}" for i in range(n)],
                        "split": split,
                        "step": 10,
                        "gold": gold.astype(np.int8),
                        "prediction": prediction.astype(np.int8),
                        "correct": right,
                        "p": np.where(prediction == 1, 0.9, 0.1).astype(np.float32),
                    }
                )
            )
        return RunResult(
            metrics={"finetune_flops": 1e6 * (run.settings.epochs if run.settings else 1)},
            history=pl.DataFrame(),
            predictions=pl.concat(frames),
        )

    return science


def quality(run: Run) -> float:
    """Supervisors .6, ceilings .9, students best at weight .7 and by one epoch less than two."""
    if run.kind == "ground_truth":
        return 0.6 if run.train_part == "supervise" else 0.9
    assert run.method is not None
    assert run.settings is not None
    weight = run.method.params.get("max_weight", 0.0)
    return 0.75 - 0.3 * (weight - 0.7) ** 2 - 0.02 * (run.settings.epochs - 1)


# What is found, shared, stopped


def test_the_search_scores_every_instance_and_shares_supervisors_and_ceilings(open_tune):
    session = open_tune(objective="oracle")
    executed: list[Run] = []
    study, search, shared = drive(session, science=made_up(quality), executed=executed)
    trials = study.trials()
    assert [trial.state for trial in trials] == ["complete"] * 6
    assert trials[0].params == {"method.max_weight": 0.5, "finetune.epochs": 1}  # the default comes first
    assert search.ended_because == "the budget of 6 trials is used up"
    kinds = Counter(run.kind for run in executed)
    assert kinds["ground_truth"] == 4  # two supervisors, two ceilings, whatever the number of candidates
    assert len(executed) == len({run.run_id for run in executed})
    distinct = {json.dumps(trial.params, sort_keys=True) for trial in trials}
    assert kinds["transfer"] == 3 * len(distinct)
    for trial in trials:
        runs = shared.expand(entry_of(session.tune.method, trial.params))
        rows = pl.read_parquet(io.BytesIO(session.store.read(runs.students[0][0], "predictions.parquet")))
        rows = rows.filter(pl.col("split") == "validation")
        accuracy = metrics.accuracy(rows["gold"], rows["prediction"])
        assert trial.attrs[SCORES] == pytest.approx([accuracy] * 3)
    # PGR of the means, by hand: weak and ceiling are the same on every instance
    accuracies = {}
    for name, run_id in (("weak", shared.instances[0].supervisor_id), ("ceiling", shared.instances[0].ceiling_id)):
        rows = pl.read_parquet(io.BytesIO(session.store.read(run_id, "predictions.parquet")))
        rows = rows.filter(pl.col("split") == "validation")
        accuracies[name] = metrics.accuracy(rows["gold"], rows["prediction"])
    gap = accuracies["ceiling"] - accuracies["weak"]
    for trial in trials:
        assert trial.values == pytest.approx(((trial.attrs[SCORES][0] - accuracies["weak"]) / gap,))
    best = best_of(trials)
    assert best is not None
    assert best.values == max(trial.values for trial in trials)


def test_candidates_worse_on_every_instance_are_stopped_and_their_other_runs_are_not_made(open_tune):
    changes: dict[str, Any] = {
        "instances": {"pairs": [["w8", "w16"], ["w8", "w24"], ["w16", "w24"]], "seeds": [0, 1, 2]},
        "space": {"method.max_weight": [0.7, 0.0], "finetune.epochs": [1, 2]},
        "objective": "oracle",
        "sampler": "grid",
        "budget": {"trials": 9},
        "pruner": "wilcoxon",
    }
    session = open_tune(**changes)
    executed: list[Run] = []
    study, search, _ = drive(session, science=made_up(quality), executed=executed)
    trials = study.trials()
    assert len(trials) == 4
    assert search.ended_because == "every candidate of the space was tried"
    pruned = [trial for trial in trials if trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert len(trial.attrs[SCORES]) < 9
        assert "signed ranks" in trial.attrs["reason"]
    students = sum(run.kind == "transfer" for run in executed)
    assert students == sum(len(trial.attrs[SCORES]) for trial in trials) < 36
    best = best_of(trials)
    assert best is not None
    assert best.params == {"method.max_weight": 0.7, "finetune.epochs": 1}


def test_several_candidates_under_way_come_to_the_same_scores(open_tune):
    one, _, _ = drive(open_tune("one", objective="oracle", sampler="random"), science=made_up(quality))
    many, _, _ = drive(open_tune("many", objective="oracle", sampler="random", concurrent=4), science=made_up(quality))
    assert [(t.params, t.values) for t in one.trials()] == [(t.params, t.values) for t in many.trials()]


def test_shared_prefixes_of_chains_are_trained_once(open_tune):
    changes: dict[str, Any] = {
        "method": {"name": "bootstrap", "student": "confidence"},
        "space": {"method.chain": {"subset": ["w16"]}, "method.student.max_weight": [0.25, 0.5, 0.75]},
        "instances": {"pairs": [["w8", "w24"]], "seeds": [0, 1]},
        "sampler": "grid",
    }
    executed: list[Run] = []
    study, _, _ = drive(open_tune(**changes), science=made_up(quality), executed=executed)
    assert len(study.trials()) == 6
    links = [run for run in executed if run.kind == "transfer" and run.rung == "w16"]
    assert len(links) == 2  # one for each seed, for three candidates with the chain
    students = [run for run in executed if run.kind == "transfer" and run.rung == "w24"]
    assert len(students) == 12


def test_the_flops_budget_counts_what_is_new(open_tune):
    session = open_tune()
    shared = session.shared("weak")
    own = shared.expand(entry_of(session.tune.method, {})).own
    work = sum(shared.runs()[run_id].work for run_id in own)
    study, search, _ = drive(open_tune("other", budget={"flops": 1.5 * work}), science=made_up(quality))
    assert len(study.trials()) == 2
    assert "FLOPs is used up" in search.ended_because


# What goes wrong


def test_a_candidate_whose_run_fails_is_told_so_and_the_others_go_on(open_tune):
    def cursed(run: Run) -> bool:
        return run.kind == "transfer" and run.settings.epochs == 2

    study, search, _ = drive(
        open_tune(sampler="grid", space={"finetune.epochs": [1, 2, 3]}), science=made_up(quality), failing=cursed
    )
    states = {trial.params["finetune.epochs"]: trial.state for trial in study.trials()}
    assert states == {1: "complete", 2: "failed", 3: "complete"}
    failed = next(trial for trial in study.trials() if trial.state == "failed")
    assert "it is cursed" in failed.attrs["reason"]
    assert not search.problem


def test_the_search_stops_when_every_candidate_fails(open_tune):
    study, search, _ = drive(open_tune(), science=made_up(quality), failing=lambda run: run.kind == "transfer")
    assert len(study.trials()) == 3
    assert search.ended_because == "3 candidates failed one after the other, and none succeeded"


def test_a_shared_run_that_fails_stops_the_search_without_using_up_its_budget(open_tune):
    study, search, _ = drive(open_tune(), science=made_up(quality), failing=lambda run: run.kind == "ground_truth")
    assert "every candidate needs" in search.problem
    assert all(trial.state == "running" for trial in study.trials())
    study.close()
    study, search, _ = drive(open_tune(), science=made_up(quality))  # put right
    assert [trial.state for trial in study.trials()] == ["complete"] * 6


def test_pgr_without_a_gap_is_refused(open_tune):
    with pytest.raises(NoGapError, match=r"not above their supervisors.*use metric: accuracy"):
        drive(open_tune(objective="oracle"), science=made_up(lambda run: 0.7))


@pytest.mark.parametrize("after", [1, 5, 9, 14, 20])
def test_a_killed_search_goes_on_to_the_same_end_and_runs_nothing_twice(open_tune, after):
    whole, _, _ = drive(open_tune("whole"), science=made_up(quality))
    expected = [(t.number, t.params, t.values, t.state) for t in whole.trials()]
    executed: list[Run] = []
    with pytest.raises(Killed):
        drive(open_tune("killed"), science=made_up(quality), executed=executed, kill_after=after)
    finished = {run.run_id for run in executed[:-1]}
    again: list[Run] = []
    study, _, _ = drive(open_tune("killed"), science=made_up(quality), executed=again)
    assert [(t.number, t.params, t.values, t.state) for t in study.trials()] == expected
    assert not finished & {run.run_id for run in again}


def test_settings_that_diverge_are_stopped_so_that_the_sampler_stays_away_from_them(open_tune):
    space = {"finetune.learning_rate": [1e-3, 1e30], "finetune.epochs": [1, 2]}

    def science(run: Run, *rest: Any) -> RunResult:
        if run.settings.learning_rate > 1:
            raise TrainingError("training has diverged: its loss is nan")
        return made_up(quality)(run, *rest)

    study, search, _ = drive(open_tune(space=space, sampler="grid"), science=science)
    states = {t.params["finetune.learning_rate"]: t.state for t in study.trials()}
    assert states == {1e-3: "complete", 1e30: "pruned"}
    assert search.ended_because == "every candidate of the space was tried"
    assert search.is_over  # known without asking, so that another session need not start Ray


def test_only_work_that_was_done_is_booked(open_tune):
    changes: dict[str, Any] = {"instances": {"seeds": [0, 1, 2]}, "pruner": "halving", "budget": {"trials": 12}}
    for concurrent in (1, 3):
        executed: list[Run] = []
        session = open_tune(f"at {concurrent}", **changes, concurrent=concurrent)
        study, _, shared = drive(session, science=made_up(quality), executed=executed)
        assert any(trial.state == "pruned" for trial in study.trials())
        done = sum(run.work for run in executed if run.run_id not in shared.needed)
        booked = sum(trial.attrs["new_work"] for trial in study.trials())
        last = max(executed, key=executed.index).work  # a run that ends after the last candidate has nobody to go to
        assert done - 3 * last <= booked <= done * (1 + 1e-9)


def test_damaged_runs_of_a_candidate_are_made_again(open_tune):
    executed: list[Run] = []
    with pytest.raises(Killed):
        drive(open_tune(), science=made_up(quality), executed=executed, kill_after=9)
    session = open_tune()
    student = next(run for run in reversed(executed[:-1]) if run.kind == "transfer")
    attempt = session.store.done(student.run_id).attempt
    file = Path(session.store.path("runs", student.run_id, "attempts", attempt, "predictions.parquet"))
    file.write_bytes(b"x" + file.read_bytes()[1:])
    study, _, _ = drive(session, science=made_up(quality))
    assert [trial.state for trial in study.trials()] == ["complete"] * 6


def test_of_equals_the_cheaper_one_is_best():
    class T:
        def __init__(self, number: int, value: float, flops: float) -> None:
            self.number, self.values, self.state = number, (value, flops), "complete"

    trials: list[Any] = [T(0, 0.5, 10), T(1, 0.5, 5), T(2, 0.4, 1)]
    assert best_of(trials).number == 1
    assert best_of(trials) in front_of(trials)


# What the search may look at


def _flipped(texts: Collection[str]) -> Callable[[list[dict]], list[dict]]:
    return lambda rows: [row | {"label": 1 - row["label"]} if row["text"] in texts else row for row in rows]


def _chosen(session: TuneSession) -> tuple[list[Any], Any]:
    study, _, _ = drive(session)
    study.close()
    best = best_of(study.trials())
    assert best is not None
    return [(trial.params, trial.values) for trial in study.trials()], best.params


@pytest.mark.parametrize("objective", ["weak", "oracle"])
def test_true_labels_that_the_search_may_not_see_do_not_change_what_it_chooses(open_tune, objective):
    """With real training: test labels never, validation labels only for the oracle."""
    changes: dict[str, Any] = {
        "objective": objective,
        "budget": {"trials": 4},
        "instances": {"pairs": [["w8", "w16"], ["w16", "w24"]]},
    }
    if objective == "oracle":
        changes["metric"] = "accuracy"  # random checkpoints have no gap worth the name
    session = open_tune("as it is", **changes)
    parts = load_task(session.spec.tasks[0]).frame.select("part", "text")
    texts = {part: set(parts.filter(pl.col("part") == part)["text"]) for part in ("test", "validation")}
    as_it_is = _chosen(session)
    assert len({values for _, values in as_it_is[0]}) > 1, "candidates do not differ, so the test would show nothing"
    hidden = texts["test"] | (texts["validation"] if objective == "weak" else set())
    assert len(hidden) >= 30
    assert _chosen(open_tune("otherwise", _flipped(hidden), **changes)) == as_it_is
    if objective == "oracle":
        seen = _chosen(open_tune("seen", _flipped(texts["validation"]), **changes))
        assert [values for _, values in seen[0]] != [values for _, values in as_it_is[0]]


def test_weak_scores_do_not_even_read_the_column_of_true_labels(open_tune, monkeypatch):
    read: list[list[str]] = []
    original = pl.read_parquet
    monkeypatch.setattr(
        "sweep.tuning.objective.pl.read_parquet",
        lambda source, columns: read.append(columns) or original(source, columns=columns),
    )
    for metric in ("agreement", "weak_log_loss", "confidence"):
        drive(open_tune(metric, metric=metric, budget={"trials": 1}), science=made_up(quality))
    assert read
    assert all("gold" not in columns for columns in read)


def test_weak_metrics_by_hand(open_tune):
    """Supervisors are right on 60 %, the default student on 74 % of the same examples, with p of .9 or .1."""
    values = {}
    for metric in ("agreement", "weak_log_loss", "confidence", "cross_agreement"):
        changes: dict[str, Any] = {"metric": metric, "budget": {"trials": 1}, "instances": {"pairs": [["w16", "w24"]]}}
        study, _, _ = drive(open_tune(metric, **changes), science=made_up(quality))
        values[metric] = study.trials()[0].values[0]
    rng = np.random.default_rng([len("validation"), 400])
    rng.integers(0, 2, 400)
    hard = rng.random(400)
    student = 0.75 - 0.3 * 0.2**2
    agree = 1 - np.mean((hard >= 0.6) & (hard < student))
    assert values["agreement"] == pytest.approx(agree)
    assert values["cross_agreement"] == pytest.approx(agree)  # the other supervisor is right on the same 60 %
    assert values["confidence"] == pytest.approx(0.9)
    same, other = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1)), -(0.9 * np.log(0.1) + 0.1 * np.log(0.9))
    assert values["weak_log_loss"] == pytest.approx(-(agree * same + (1 - agree) * other), rel=1e-5)


@pytest.mark.parametrize("method", [{"name": "early_stop", "by": "oracle_test"}, "early_stop"])
def test_no_search_may_choose_a_step_by_test(open_tune, method):
    space: dict[str, Any] = {"finetune.epochs": [1, 2]}
    if method == "early_stop":
        space = {"method.by": ["weak", "oracle_test"]}
    with pytest.raises(SpecError, match="chooses a step by test, which no search may look at"):
        open_tune(objective="oracle", method=method, space=space)


def test_the_default_is_what_the_spec_trains_without_a_search(open_tune):
    chain = {"method": "bootstrap", "space": {"method.chain": {"subset": ["w16"]}}}
    session = open_tune("chain", **chain, instances={"pairs": [["w8", "w24"]]})
    assert default_params(session.tune, session.spec) == {"method.chain": ["w16"]}  # all there is in between
    inner = {"method": "bootstrap", "space": {"method.student": ["naive", "confidence"]}}
    session = open_tune("inner", **inner, instances={"pairs": [["w8", "w24"]]})
    assert default_params(session.tune, session.spec) == {"method.student": "naive"}


def test_a_method_that_applies_to_no_pair_is_refused(open_tune):
    session = open_tune(method="bootstrap", space={"finetune.epochs": [1, 2]}, instances={"pairs": [["w8", "w16"]]})
    with pytest.raises(SpecError, match=r"tune.method: 'bootstrap' .* does not apply: too few rungs"):
        session.shared("weak")


# What comes out


def test_the_front_holds_what_no_other_candidate_beats_at_no_more_flops(open_tune):
    class T:
        def __init__(self, number: int, value: float, flops: float) -> None:
            self.number, self.values, self.state = number, (value, flops), "complete"

    trials: list[Any] = [T(0, 0.5, 10), T(1, 0.4, 5), T(2, 0.45, 10), T(3, 0.6, 20), T(4, 0.6, 30), T(5, 0.3, 5)]
    assert [trial.number for trial in front_of(trials)] == [1, 0, 3]


def test_the_best_is_measured_against_its_own_ceiling_and_the_searchs_on_fresh_instances_only(open_tune):
    session = open_tune(objective="both")
    params = {"method.max_weight": 0.75, "finetune.epochs": 3}
    winners = {"weak": Winner(4, params), "oracle": Winner(2, params)}
    methods = fresh_methods(session.tune, winners, {"weak": {7: params | {"finetune.epochs": 2}}}, name="abc")
    scope = session.scopes[1]
    spec, inputs = narrowed(fresh_spec(session.spec, scope, methods), session.inputs, scope)
    plan = build_plan(spec, inputs)
    assert {pair.seed for pair in plan.pairs} == {5}
    names = Counter(written(entry)["name"] for entry in spec.methods)
    assert names == {"naive": 3, "confidence": 6}  # naive as it is, and with the settings of either winner
    by_label = {pair.method: pair for pair in plan.pairs if (pair.weak, pair.strong) == ("w8", "w16")}
    matched, reference = by_label["tuned (weak) abc#4"], by_label["tuned (weak) abc#4, grid's ceiling"]
    default = by_label[methods.default]
    assert matched.student_id == reference.student_id != default.student_id
    assert matched.supervisor_id == reference.supervisor_id == default.supervisor_id
    assert plan.runs[matched.ceiling_id].settings.epochs == 3
    assert reference.ceiling_id == default.ceiling_id
    alike = by_label[methods.reference["weak"]]
    assert plan.runs[alike.student_id].method.name == "naive"
    assert plan.runs[alike.student_id].settings == plan.runs[matched.student_id].settings
    assert alike.ceiling_id == default.ceiling_id
    assert plan.runs[by_label[methods.front["weak"]["7"]].student_id].settings.epochs == 2
    assert [pair.method for pair in plan.pairs if pair.oracle and pair.strong == "w16"] == [
        "tuned (oracle) abc#2 [oracle]",
        "tuned (oracle) abc#2, grid's ceiling [oracle]",
        "naive, finetuned as tuned (oracle) abc#2 [oracle]",
    ]


def test_exported_settings_are_a_sweep_that_plans_the_same_students(open_tune, tmp_path):
    session = open_tune()
    params = {"method.max_weight": 0.75, "finetune.epochs": 3}
    methods = fresh_methods(session.tune, {"weak": Winner(4, params)}, {}, name="abc")
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump(as_mapping(exported(session.spec, methods, session.scopes[1], session.store.root))))
    again = Session.open(str(path))
    assert again.store.root == session.store.root
    assert [pair.method for pair in again.plan.pairs[:3]] == ["naive", "confidence", "tuned (weak) abc#4"]
    assert {pair.seed for pair in again.plan.pairs} == {5}
    spec, inputs = narrowed(fresh_spec(session.spec, session.scopes[1], methods), session.inputs, session.scopes[1])
    measured = build_plan(spec, inputs).pairs
    for label in ("confidence", "tuned (weak) abc#4"):
        planned = {pair.student_id for pair in again.plan.pairs if pair.method == label}
        assert planned == {pair.student_id for pair in measured if pair.method == label}
