"""Which runs each method asks for, and what methods share."""

import json
from collections import Counter
from typing import Any

import polars as pl
import pytest
import yaml

from sweep.errors import SpecError
from sweep.plan import Pair, Plan, Run
from sweep.planner import build_plan
from sweep.session import Session
from sweep.spec import MethodEntry
from sweep.storage.manifest import write_manifest
from tests.w2s.stand_ins import make_checkpoint, make_task
from w2s.methods import METHODS, ORACLE_MARK, LossMethod, MethodError, as_method_spec

LOSSES = [name for name, method in METHODS.items() if issubclass(method, LossMethod)]


def rung(name: str, width: int) -> dict[str, Any]:
    return {"name": name, "hidden_size": width, "layers": 1, "heads": 2, "tokens": 20_000}


RUNGS = [rung("d4", 4), rung("d8", 8), rung("d12", 12), rung("d16", 16)]


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """One for all, so that the task is read once."""
    return str(tmp_path_factory.mktemp("results"))


@pytest.fixture
def open_sweep(tmp_path, storage):
    """Writes and opens a sweep of four rungs, with some of its keys changed."""

    def write(*methods: Any, **changes: Any) -> Session:
        spec: dict[str, Any] = {
            "name": "tiny",
            "ladder": {"rungs": RUNGS},
            "tasks": [
                {
                    "name": "facts",
                    "source": "facts",
                    "splits": {"supervise": 40, "transfer": 40, "validation": 10, "test": 60, "transfer_parts": 3},
                }
            ],
            "methods": list(methods),
            "finetune": {"eval_every": 1},
        }
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(spec | changes))
        return Session.open(str(path), storage)

    return write


@pytest.fixture
def plan_of(open_sweep):
    def plan(*methods: Any, **changes: Any) -> Plan:
        return open_sweep(*methods, **changes).plan

    return plan


def entry(method: Any) -> MethodEntry:
    return MethodEntry(**as_method_spec(method).model_dump())


def only(plan: Plan, weak: str, strong: str, method: str = "", seed: int = 0) -> Pair:
    """The pair of a weak and a strong rung by the method of this label or, failing that, whose label begins so."""
    found = [p for p in plan.pairs if (p.weak, p.strong, p.seed) == (weak, strong, seed)]
    exact = [p for p in found if p.method.removesuffix(ORACLE_MARK) == method]
    found = exact or [p for p in found if p.method.startswith(method)]
    assert len(found) == 1, [p.method for p in plan.pairs]
    return found[0]


def parent(plan: Plan, run_id: str, role: str) -> Run | None:
    """A run's parent in a role."""
    return next((plan.runs[p.run_id] for p in plan.runs[run_id].parents if p.role == role), None)


def roles(run: Run) -> dict[str, str]:
    return {p.role: p.run_id for p in run.parents}


def kinds(plan: Plan) -> dict[str, int]:
    return dict(Counter(run.kind for run in plan.runs.values()))


def links(pair: Pair) -> list[str]:
    return pair.links.split(",") if pair.links else []


# Chains


def test_a_chain_climbs_rung_by_rung_from_the_supervisor_to_the_student(plan_of):
    plan = plan_of("bootstrap")
    pair = only(plan, "d4", "d16")
    d8, d12 = links(pair)
    assert [plan.runs[i].rung for i in (d8, d12, pair.student_id)] == ["d8", "d12", "d16"]
    assert [plan.runs[i].kind for i in (d8, d12, pair.student_id)] == ["transfer"] * 3
    assert roles(plan.runs[d8])["supervisor"] == pair.supervisor_id
    assert roles(plan.runs[d12])["supervisor"] == d8
    assert roles(plan.runs[pair.student_id])["supervisor"] == d12
    for run_id in (d8, d12, pair.student_id):  # each starts from weights of its own rung
        assert parent(plan, run_id, "base").rung == plan.runs[run_id].rung
    assert plan.runs[pair.supervisor_id].kind == plan.runs[pair.ceiling_id].kind == "ground_truth"
    assert plan.runs[pair.student_id].label == "facts: d4 -> d8 -> d12 -> d16 naive seed 0"


def test_chains_with_the_same_beginning_share_its_links(plan_of):
    long, short = {"name": "bootstrap", "chain": ["d8", "d12", "d16"]}, {"name": "bootstrap", "chain": ["d8", "d12"]}
    plan = plan_of(long, short, ladder={"rungs": [*RUNGS, rung("d20", 20)]}, pairs=[["d4", "d20"]])
    one = only(plan, "d4", "d20", "bootstrap(chain=d8+d12+d16)")
    other = only(plan, "d4", "d20", "bootstrap(chain=d8+d12)")
    assert links(one)[:2] == links(other)
    assert len(links(one)) == 3
    assert one.student_id != other.student_id
    assert kinds(plan)["transfer"] == 3 + 2  # links, and two students


def test_a_link_is_the_student_of_the_plain_pair_below(plan_of):
    plan = plan_of("naive", "bootstrap")
    assert links(only(plan, "d4", "d16", "bootstrap"))[0] == only(plan, "d4", "d8", "naive").student_id
    first, second = links(only(plan, "d4", "d16", "bootstrap"))
    assert links(only(plan, "d4", "d12", "bootstrap")) == [first]
    assert only(plan, "d4", "d12", "bootstrap").student_id == second


@pytest.mark.parametrize(
    ("chain", "expected"),
    [("all", ["d8", "d12"]), (1, ["d8", "d12"]), (2, ["d12"]), (["d8"], ["d8"]), (["d12"], ["d12"])],
    ids=str,
)
def test_a_chain_is_all_every_kth_or_a_list(plan_of, chain, expected):
    plan = plan_of({"name": "bootstrap", "chain": chain})
    assert [plan.runs[i].rung for i in links(only(plan, "d4", "d16"))] == expected


def test_pairs_without_the_chain_between_them_are_left_out_and_told(plan_of):
    plan = plan_of("naive", {"name": "bootstrap", "chain": ["d8"]}, {"name": "bootstrap", "chain": 2})
    assert {(p.weak, p.strong) for p in plan.pairs if "d8" in p.method} == {("d4", "d12"), ("d4", "d16")}
    assert {(p.weak, p.strong) for p in plan.pairs if "chain=2" in p.method} == {("d4", "d16")}
    assert plan.not_applicable == (
        "bootstrap(chain=d8) on facts: 4 pairs left out, the chain d8 does not lie between weak and strong",
        "bootstrap(chain=2) on facts: 5 pairs left out, too few rungs lie between weak and strong",
    )


@pytest.mark.parametrize(
    ("method", "pairs", "message"),
    [
        ({"name": "bootstrap"}, "adjacent", "'bootstrap' applies to no pair of this sweep: too few rungs lie between"),
        ({"name": "bootstrap", "chain": 3}, "all", "applies to no pair of this sweep: too few rungs lie between"),
        (
            {"name": "bootstrap", "chain": ["d12", "d8"]},
            "all",
            "chain d12, d8 must climb; the ladder goes d4 < d8 < d12",
        ),
        ({"name": "bootstrap", "chain": ["d8", "d8"]}, "all", "chain d8, d8 must climb"),
        ({"name": "bootstrap", "chain": ["d9"]}, "all", "the chain names no rung 'd9'; there is d4, d8, d12, d16"),
        ({"name": "ensemble", "members": "seeds"}, "all", "applies to no pair of this sweep: an ensemble over seeds"),
        (
            {"name": "ensemble", "members": ["d8", "d9"]},
            "all",
            "ensemble: there is no rung 'd9'; there is d4, d8, d12, d16",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("first", [[], ["naive"]], ids=["alone", "beside naive"])
def test_a_method_that_fits_nowhere_is_refused(plan_of, method, pairs, message, first):
    with pytest.raises(SpecError) as error:
        plan_of(*first, method, pairs=pairs)
    assert message in str(error.value)


def test_on_fresh_data_every_link_has_rows_of_its_own_and_the_student_those_of_its_comparators(plan_of):
    plan = plan_of("naive", {"name": "bootstrap", "data": "fresh"})
    pair = only(plan, "d4", "d16", "bootstrap")
    assert [plan.runs[i].train_part for i in links(pair)] == ["transfer/1", "transfer/2"]
    student, ceiling = plan.runs[pair.student_id], plan.runs[pair.ceiling_id]
    assert student.train_part == ceiling.train_part == pair.part == "transfer/0"
    plain = only(plan, "d4", "d16", "naive")
    assert plan.runs[plain.student_id].train_part == "transfer/0"
    assert plain.ceiling_id == pair.ceiling_id


@pytest.mark.parametrize(("parts", "enough"), [(2, False), (3, True)])
def test_fresh_data_needs_a_part_per_link_and_one_for_the_student(plan_of, parts, enough):
    splits = {"supervise": 40, "transfer": 40, "validation": 10, "test": 60, "transfer_parts": parts}
    tasks = [{"name": "facts", "source": "facts", "splits": splits}]
    method = {"name": "bootstrap", "data": "fresh"}
    if enough:
        assert len(links(only(plan_of(method, tasks=tasks), "d4", "d16"))) == 2
    else:
        with pytest.raises(
            SpecError, match=r"chains of 2 links .* task 'facts' needs splits.transfer_parts: 3 or more"
        ):
            plan_of(method, tasks=tasks)


def test_links_may_learn_in_another_way_than_the_student(plan_of):
    plan = plan_of({"name": "bootstrap", "links": ["confidence", "kl"], "student": "window"})
    pair = only(plan, "d4", "d16")
    assert [plan.runs[i].method_label for i in [*links(pair), pair.student_id]] == ["confidence", "kl", "window"]
    plan = plan_of({"name": "bootstrap", "links": "confidence"})
    pair = only(plan, "d4", "d16")
    assert [plan.runs[i].method_label for i in [*links(pair), pair.student_id]] == ["confidence", "confidence", "naive"]


def test_relabelling_goes_round_by_round_and_shares_the_rounds(plan_of):
    plan = plan_of("naive", {"name": "relabel", "rounds": 1}, {"name": "relabel", "rounds": 2})
    plain = only(plan, "d4", "d8", "naive")
    one = only(plan, "d4", "d8", "relabel(rounds=1)")
    assert links(one) == [plain.student_id]
    twice = only(plan, "d4", "d8", "relabel")
    assert links(twice) == [plain.student_id, one.student_id]
    assert roles(plan.runs[twice.student_id])["supervisor"] == one.student_id
    bases = {parent(plan, p.student_id, "base").run_id for p in (plain, one, twice)}
    assert len(bases) == 1  # a fresh copy each time
    assert plan.runs[twice.student_id].rung == plan.runs[one.student_id].rung == "d8"


# Early stopping


def test_early_stopping_adds_no_run(plan_of):
    with_it = plan_of("naive", "early_stop", {"name": "early_stop", "by": "oracle_test"})
    without = plan_of("naive")
    assert set(with_it.runs) == set(without.runs)
    assert {p.student_id for p in with_it.pairs} == {p.student_id for p in without.pairs}
    assert {(p.method, p.stop, p.oracle) for p in with_it.pairs} == {
        ("naive", "last", False),
        ("early_stop", "weak", False),
        ("early_stop(by=oracle_test) [oracle]", "oracle_test", True),
    }


def test_early_stopping_needs_several_evaluations(plan_of):
    with pytest.raises(SpecError, match=r"only one, at the end; set finetune\.eval_every"):
        plan_of("early_stop", finetune={"epochs": 1})


@pytest.mark.parametrize(
    "method",
    [
        {"name": "bootstrap", "links": "early_stop"},
        {"name": "bootstrap", "links": ["naive", {"name": "filter", "student": "early_stop"}]},
        {"name": "relabel", "student": "early_stop"},
        {"name": "probe", "activations": "finetuned", "student": "early_stop"},
    ],
    ids=str,
)
def test_a_student_that_is_stopped_early_labels_for_nobody(plan_of, method):
    with pytest.raises(SpecError, match="put early_stop outside"):
        plan_of(method)


@pytest.mark.parametrize("inner", ["prompt", "probe"])
def test_what_takes_no_steps_is_not_stopped(plan_of, inner):
    with pytest.raises(SpecError, match=f"a {inner} has no steps to stop at"):
        plan_of({"name": "early_stop", "student": inner})


def test_stopping_goes_around_a_chain(plan_of):
    plan = plan_of("bootstrap", {"name": "early_stop", "student": "bootstrap"})
    plain, stopped = only(plan, "d4", "d16", "bootstrap"), only(plan, "d4", "d16", "early_stop")
    assert (stopped.student_id, stopped.links, stopped.stop) == (plain.student_id, plain.links, "weak")


# Generative finetuning


@pytest.mark.parametrize("supervisor", ["plain", "adjusted"])
@pytest.mark.parametrize("ceiling", ["plain", "adjusted"])
def test_generative_finetuning_comes_before_the_student_and_its_comparators_as_asked(plan_of, supervisor, ceiling):
    plan = plan_of("naive", {"name": "generative", "ceiling": ceiling, "supervisor": supervisor})
    plain, pair = only(plan, "d4", "d16", "naive"), only(plan, "d4", "d16", "generative")
    base = parent(plan, pair.student_id, "base")
    assert (base.kind, base.rung) == ("generative", "d16")
    assert parent(plan, base.run_id, "base").kind == "pretrain"
    assert base.keep_weights
    assert base.spec.parts == ("supervise", "transfer/0")
    assert (pair.supervisor_id == plain.supervisor_id) == (supervisor == "plain")
    assert (pair.ceiling_id == plain.ceiling_id) == (ceiling == "plain")
    own_base = parent(plan, pair.supervisor_id, "base")
    assert (own_base.kind, own_base.rung) == ("pretrain" if supervisor == "plain" else "generative", "d4")
    assert parent(plan, pair.ceiling_id, "base") is (
        base if ceiling == "adjusted" else parent(plan, base.run_id, "base")
    )
    assert roles(plan.runs[pair.student_id])["supervisor"] == pair.supervisor_id
    assert bool(pair.baseline) == ("adjusted" in (ceiling, supervisor))
    assert plan.runs[pair.ceiling_id].train_part == plan.runs[plain.ceiling_id].train_part


def test_one_generative_run_serves_all_supervisors_and_students(plan_of):
    plan = plan_of(
        "generative", {"name": "generative", "student": "confidence"}, {"name": "generative", "ceiling": "plain"}
    )
    runs = [run for run in plan.runs.values() if run.kind == "generative"]
    assert sorted(run.rung for run in runs) == ["d12", "d16", "d8"]
    for run in runs:
        assert {p.artefact for p in run.parents} == {"weights"}  # nobody's labels
    assert {p.baseline for p in plan.pairs} == {"generative", ""}


def test_its_settings_make_it_another_run(plan_of):
    plan = plan_of(
        "generative",
        {"name": "generative", "texts": "transfer"},
        {"name": "generative", "epochs": 2},
        {"name": "generative", "learning_rate_factor": 0.5},
        pairs=[["d4", "d8"]],
    )
    assert kinds(plan)["generative"] == 4
    parts = {parent(plan, p.student_id, "base").spec.parts for p in plan.pairs}
    assert parts == {("supervise", "transfer/0"), ("transfer/0",)}
    assert len({p.baseline for p in plan.pairs}) == 4  # each has a ceiling of its own


def test_a_baseline_inside_another_has_a_name_of_its_own(plan_of):
    """(weak, strong, baseline) says which supervisor and ceiling are meant."""
    inner = {"name": "generative", "student": "naive"}
    plan = plan_of(
        "naive",
        "generative",
        "ensemble",
        "control",
        "probe",
        {"name": "ensemble", "student": inner},
        {"name": "ensemble", "student": "control"},
        {"name": "control", "student": inner},
        {"name": "generative", "student": "probe"},
        {"name": "generative", "supervisor": "adjusted", "student": "control"},
        {"name": "bootstrap", "student": inner},
        {"name": "probe", "labels": "ground_truth", "activations": "finetuned"},
        {"name": "generative", "ceiling": "plain", "student": "probe"},
    )
    measured = {(p.weak, p.strong, p.baseline, p.supervisor_id, p.ceiling_id) for p in plan.pairs}
    assert len(measured) == len({m[:3] for m in measured})
    assert only(plan, "d8", "d16", "ensemble(student=generative)").baseline == "ensemble + generative"
    assert only(plan, "d8", "d16", "generative(student=probe)").baseline == "generative + probe"
    plain, adapted = (
        only(plan, "d8", "d16", "probe"),
        only(plan, "d8", "d16", "generative(ceiling=plain, student=probe)"),
    )
    assert (adapted.baseline, adapted.ceiling_id) == (plain.baseline, plain.ceiling_id) == ("probe", plain.ceiling_id)
    assert adapted.student_id != plain.student_id


def test_whatever_is_put_into_what_the_plan_is_sound_or_refused(open_sweep):
    session = open_sweep("naive", seeds=[0, 1])
    plain = [*METHODS, {"name": "generative", "ceiling": "plain", "supervisor": "adjusted"}]
    plain += [{"name": "filter", "by": "knn", "relabel": True}, {"name": "prompt", "shots": 2}]
    plain += [{"name": "probe", "activations": "finetuned"}, {"name": "ensemble", "members": "seeds"}]
    outer = [m if isinstance(m, dict) else {"name": m} for m in plain if m not in LOSSES]
    written = [m | {"student": inner} for m in outer for inner in [*plain, "naive"] if m["name"] != "prompt"]
    written += [{"name": "bootstrap", "links": inner} for inner in plain]
    fine, refused = [], 0
    for method in written:
        try:
            spec = session.spec.model_copy(update={"methods": (entry(method),)})
            build_plan(spec, session.inputs)
            fine.append(entry(method))
        except (SpecError, MethodError):
            refused += 1
    assert len(fine) > 2 * refused > 0
    plan = build_plan(session.spec.model_copy(update={"methods": tuple(fine)}), session.inputs)
    measured = {(p.weak, p.strong, p.seed, p.baseline, p.supervisor_id, p.ceiling_id) for p in plan.pairs}
    assert len(measured) == len({m[:4] for m in measured})
    for pair in plan.pairs:
        assert {pair.supervisor_id, pair.student_id, pair.ceiling_id, *links(pair)} <= set(plan.runs)
        assert plan.runs[pair.student_id].rung == pair.strong
        assert plan.runs[pair.ceiling_id].rung == pair.strong


# Methods with finetuning settings of their own


def test_settings_of_a_method_are_those_of_its_student_its_links_and_its_ceiling_but_not_of_its_supervisor(plan_of):
    tuned = {"name": "bootstrap", "label": "tuned", "finetune": {"epochs": 3, "learning_rate_factor": 0.5}}
    plan = plan_of("bootstrap", tuned, finetune={"epochs": 2, "learning_rate": 0.25, "eval_every": 1})
    plain, own = only(plan, "d4", "d12", "bootstrap"), only(plan, "d4", "d12", "tuned")
    assert own.supervisor_id == plain.supervisor_id
    assert (own.baseline, plain.baseline) == ("ceiling with epochs=3, learning_rate_factor=0.5", "")
    assert own.settings == plain.settings  # one section of the analysis, so that they are compared
    assert len(links(own)) == 1
    for run_id in (own.student_id, own.ceiling_id, *links(own)):
        settings = plan.runs[run_id].settings
        assert (settings.epochs, settings.learning_rate) == (3, 0.125)
    for run_id in (plain.student_id, plain.ceiling_id, own.supervisor_id):
        settings = plan.runs[run_id].settings
        assert (settings.epochs, settings.learning_rate) == (2, 0.25)


def test_settings_that_change_nothing_make_the_same_runs(plan_of):
    plan = plan_of("naive", {"name": "naive", "finetune": {"epochs": 2}}, finetune={"epochs": 2, "eval_every": 1})
    plain, own = only(plan, "d4", "d8", "naive"), only(plan, "d4", "d8", "naive with epochs=2")
    assert (own.student_id, own.ceiling_id, own.baseline) == (plain.student_id, plain.ceiling_id, "")


def test_a_method_with_settings_of_its_own_can_be_measured_against_the_grids_ceiling(plan_of):
    changed = {"name": "naive", "finetune": {"epochs": 3, "lora": {"rank": 4}}}
    plan = plan_of("naive", changed, changed | {"own_ceiling": False})
    matched = only(plan, "d4", "d8", "naive with epochs=3, lora.rank=4")
    reference = only(plan, "d4", "d8", "naive with epochs=3, lora.rank=4, grid's ceiling")
    plain = only(plan, "d4", "d8", "naive")
    assert matched.student_id == reference.student_id != plain.student_id
    assert matched.ceiling_id != reference.ceiling_id == plain.ceiling_id
    assert reference.baseline == ""


# Filters, probes and the activations that they share


def test_a_filter_by_confidence_reads_the_supervisors_labels_alone(plan_of):
    plan = plan_of("filter")
    assert "activations" not in kinds(plan)
    pair = only(plan, "d4", "d16")
    labels = parent(plan, pair.student_id, "supervisor")
    assert labels.kind == "labels"
    assert roles(labels) == {"supervisor": pair.supervisor_id}
    assert labels.spec.operation.params == {"by": "confidence", "relabel": False, "keep": 0.2}
    assert pair.baseline == ""  # weak performance stays that of the supervisor
    assert kinds(plan)["labels"] == 3  # one per supervisor, whatever the student


def test_a_filter_by_activations_looks_at_those_of_the_pretrained_student(plan_of):
    plan = plan_of({"name": "filter", "by": "probe"}, pairs=[["d4", "d16"], ["d8", "d16"]])
    pair = only(plan, "d4", "d16")
    labels = parent(plan, pair.student_id, "supervisor")
    activations = parent(plan, labels.run_id, "activations")
    assert roles(labels)["supervisor"] == pair.supervisor_id
    assert parent(plan, activations.run_id, "base").label == "pretrain d16 seed 0"
    assert labels.spec.operation.params == {"by": "probe", "relabel": False, "keep": 0.9, "penalty": 1e-3}
    assert kinds(plan)["activations"] == 1
    assert kinds(plan)["labels"] == 2


def test_filters_and_probes_share_the_activations_of_a_rung_seed_and_layer(plan_of):
    methods = [{"name": "filter", "by": by, "layer": -1} for by in ("probe", "knn", "topological")]
    plan = plan_of(
        *methods,
        {"name": "filter", "by": "knn", "layer": -1, "relabel": True},
        "probe",
        {"name": "probe", "penalty": 0.1},
        {"name": "probe", "activations": "finetuned", "labels": "ground_truth"},
        {"name": "filter", "by": "knn", "layer": 0},
        seeds=[0, 1],
        ladder={"seed": "per_seed", "rungs": RUNGS},
        pairs=[["d4", "d16"], ["d8", "d16"]],
    )
    found = [run for run in plan.runs.values() if run.kind == "activations"]
    pretrained = Counter(
        (r.rung, r.seed, r.spec.layer) for r in found if parent(plan, r.run_id, "base").kind == "pretrain"
    )
    assert pretrained == {("d16", seed, layer): 1 for seed in (0, 1) for layer in (-1, 0)}
    assert len(found) - pretrained.total() == 2 * 2  # of the students of two supervisors, per seed


def test_on_a_fixed_ladder_activations_are_those_of_all_seeds(plan_of):
    plan = plan_of("probe", seeds=[0, 1], pairs=[["d4", "d16"]])
    assert kinds(plan)["activations"] == 1


def test_a_probe_is_measured_against_a_probe_on_ground_truth(plan_of):
    plan = plan_of("probe")
    pair = only(plan, "d4", "d16")
    student, ceiling = plan.runs[pair.student_id], plan.runs[pair.ceiling_id]
    assert student.kind == ceiling.kind == "probe"
    assert set(roles(ceiling)) == {"activations"}
    assert roles(student) == {**roles(ceiling), "supervisor": pair.supervisor_id}
    assert (student.spec.labels, ceiling.spec.labels) == ("weak", "ground_truth")
    assert only(plan, "d8", "d16").ceiling_id == pair.ceiling_id
    assert pair.baseline == "probe"
    # The ceilings of the grid are measured by nobody, so nobody trains them.
    assert {run.train_part for run in plan.runs.values() if run.kind == "ground_truth"} == {"supervise"}


def test_a_probe_may_be_measured_against_the_finetuned_ceiling(plan_of):
    plan = plan_of("naive", {"name": "probe", "ceiling": "finetuned"})
    pair = only(plan, "d4", "d16", "probe")
    assert (pair.ceiling_id, pair.baseline) == (only(plan, "d4", "d16", "naive").ceiling_id, "")


def test_a_probe_on_the_finetuned_student_keeps_the_weights_of_the_very_student_of_the_plain_method(plan_of):
    plain = plan_of("confidence", pairs=[["d4", "d16"]])
    probe = {"name": "probe", "activations": "finetuned", "student": "confidence", "labels": "ground_truth"}
    plan = plan_of("confidence", probe, pairs=[["d4", "d16"]])
    student = only(plan, "d4", "d16", "confidence").student_id
    assert student == only(plain, "d4", "d16").student_id
    assert plan.runs[student].keep_weights
    assert not plain.runs[student].keep_weights
    pair = only(plan, "d4", "d16", "probe")
    activations = parent(plan, pair.student_id, "activations")
    assert [(p.role, p.run_id, p.artefact) for p in activations.parents] == [("base", student, "weights")]
    assert pair.oracle
    assert pair.method.endswith(" [oracle]")


# Other labels


def test_an_ensemble_of_smaller_rungs_is_labelled_by_all_of_them_and_is_the_weak_performance(plan_of):
    plan = plan_of("naive", "ensemble")
    assert {(p.weak, p.strong) for p in plan.pairs if p.method == "ensemble"} == {
        ("d8", "d12"), ("d8", "d16"), ("d12", "d16"),
    }  # fmt: skip
    assert "ensemble on facts: 3 pairs left out, no rung lies below the weak one" in plan.not_applicable
    pair = only(plan, "d12", "d16", "ensemble")
    labels = plan.runs[pair.supervisor_id]
    assert labels.kind == "labels"
    assert roles(plan.runs[pair.student_id])["supervisor"] == labels.run_id
    supervisors = [only(plan, weak, "d16", "naive").supervisor_id for weak in ("d4", "d8", "d12")]
    assert [p.run_id for p in labels.parents] == supervisors
    assert [p.role for p in labels.parents] == ["member/0", "member/1", "member/2"]
    assert pair.ceiling_id == only(plan, "d12", "d16", "naive").ceiling_id
    assert pair.baseline == "ensemble"


def test_an_ensemble_over_seeds_is_one_run_of_labels_for_all_seeds(plan_of):
    plan = plan_of({"name": "ensemble", "members": "seeds"}, seeds=[0, 1, 2], pairs=[["d4", "d8"], ["d4", "d16"]])
    assert kinds(plan)["labels"] == 1
    labels = next(run for run in plan.runs.values() if run.kind == "labels")
    assert [plan.runs[p.run_id].seed for p in labels.parents] == [0, 1, 2]
    assert {p.supervisor_id for p in plan.pairs} == {labels.run_id}
    assert kinds(plan)["transfer"] == 2 * 3


def test_an_ensemble_of_named_rungs_goes_with_the_pairs_of_its_largest(plan_of):
    plan = plan_of({"name": "ensemble", "members": ["d4", "d12"], "rule": "vote"})
    assert [(p.weak, p.strong) for p in plan.pairs] == [("d12", "d16")]
    labels = plan.runs[plan.pairs[0].supervisor_id]
    assert [plan.runs[p.run_id].rung for p in labels.parents] == ["d4", "d12"]
    assert labels.spec.operation.params == {"rule": "vote"}
    assert "d8" not in {run.rung for run in plan.runs.values() if run.kind != "pretrain"}


def test_a_control_counts_the_supervisors_errors_and_is_the_weak_performance(plan_of):
    plan = plan_of("naive", "control", {"name": "control", "errors": "most_confident"})
    plain = only(plan, "d4", "d16", "naive")
    uniform = only(plan, "d4", "d16", "control")
    confident = only(plan, "d4", "d16", "control(errors=most_confident)")
    for pair in (uniform, confident):
        labels = plan.runs[pair.supervisor_id]
        assert labels.kind == "labels"
        assert roles(labels)["supervisor"] == plain.supervisor_id
        assert roles(plan.runs[pair.student_id])["supervisor"] == labels.run_id
        assert pair.ceiling_id == plain.ceiling_id
        assert pair.oracle
    assert set(roles(plan.runs[uniform.supervisor_id])) == {"supervisor"}
    reference = parent(plan, confident.supervisor_id, "reference")
    assert (reference.kind, reference.rung, reference.train_part) == ("ground_truth", "d16", "supervise")
    assert plan.runs[confident.student_id].train_part == "transfer/0"  # the other half


def test_easy_rows_are_judged_by_all_rungs_trained_on_the_other_half(plan_of):
    plan = plan_of("easy_to_hard", {"name": "easy_to_hard", "rows": "hard"})
    pair = only(plan, "d8", "d16", "easy_to_hard [oracle]")
    labels = parent(plan, pair.student_id, "supervisor")
    judges = [plan.runs[p.run_id] for p in labels.parents if p.role.startswith("member/")]
    assert [(j.kind, j.rung, j.train_part) for j in judges] == [
        ("ground_truth", rung["name"], "supervise") for rung in RUNGS
    ]
    assert roles(labels)["supervisor"] == pair.supervisor_id == judges[1].run_id
    assert labels.spec.operation.params == {"rows": "easy", "share": 0.2, "up_to": 1}
    assert pair.baseline == ""
    assert kinds(plan)["labels"] == 3 * 2  # per weak rung and kind of rows, whatever the student


def test_imitation_differs_from_its_student_in_the_texts_only(plan_of):
    plan = plan_of("naive", "imitation", {"name": "imitation", "student": "confidence"})
    plain = only(plan, "d4", "d16", "naive")
    stated = only(plan, "d4", "d16", "imitation")
    one, other = plan.runs[plain.student_id], plan.runs[stated.student_id]
    assert one.run_id != other.run_id
    assert one.parents == other.parents
    assert one.spec == other.spec.model_copy(update={"states_labels": False})
    assert other.spec.states_labels
    assert (stated.supervisor_id, stated.ceiling_id) == (plain.supervisor_id, plain.ceiling_id)
    assert not plan.runs[stated.ceiling_id].states_labels


@pytest.mark.parametrize("inner", ["prompt", "probe"])
def test_imitation_is_of_finetuned_students(plan_of, inner):
    with pytest.raises(SpecError, match=f"a {inner} does not read the stated labels"):
        plan_of({"name": "imitation", "student": inner})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            {"name": "bootstrap", "student": "ensemble"},
            "'ensemble' makes labels of its own and would drop those of d4 -> d8",
        ),
        ({"name": "bootstrap", "student": "easy_to_hard"}, "would drop those of d4 -> d8"),
        ({"name": "bootstrap", "student": "control"}, "would drop those of d4 -> d8"),
        ({"name": "relabel", "student": {"name": "generative", "supervisor": "adjusted"}}, r"would drop those of d4"),
        ({"name": "filter", "student": "control"}, r"would drop those of d4 \(filtered by confidence\)"),
        ({"name": "filter", "student": "filter"}, r"'filter' needs a label for every row, and d4 \(filtered by"),
        ({"name": "easy_to_hard", "student": "filter"}, "needs a label for every row, and ground truth of rows easy"),
        ({"name": "filter", "student": "imitation"}, "'imitation' needs a label for every row"),
        ({"name": "imitation", "student": "filter"}, "'imitation' needs a label for every row"),
    ],
    ids=str,
)
def test_methods_that_would_undo_each_other_are_refused(plan_of, method, message):
    with pytest.raises(SpecError, match=message):
        plan_of(method)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "filter", "student": "bootstrap"},
        {"name": "filter", "student": {"name": "relabel", "student": "naive"}},
        {"name": "filter", "by": "probe", "relabel": True, "student": "filter"},
        {"name": "filter", "student": "probe"},
        {"name": "filter", "student": {"name": "prompt", "shots": 2}},
        {"name": "bootstrap", "links": "filter", "student": "filter"},
        {"name": "control", "student": "filter"},
        {"name": "ensemble", "student": "easy_to_hard"},
        {"name": "generative", "student": "bootstrap"},
        {"name": "imitation", "student": {"name": "filter", "by": "knn", "relabel": True}},
    ],
    ids=str,
)
def test_methods_compose(plan_of, method):
    plan = plan_of(method)
    assert plan.pairs
    for pair in plan.pairs:
        assert {pair.supervisor_id, pair.student_id, pair.ceiling_id, *links(pair)} <= set(plan.runs)


def test_nothing_is_run_for_a_method_that_does_not_apply(plan_of):
    """What is around a chain is expanded before the chain finds that no rung lies between."""
    plan = plan_of("naive", {"name": "generative", "student": {"name": "bootstrap", "chain": ["d8"]}}, pairs="all")
    assert {run.rung for run in plan.runs.values() if run.kind == "generative"} == {"d12", "d16"}
    ends = {i for p in plan.pairs for i in (p.supervisor_id, p.student_id, p.ceiling_id)}
    ladder = {run_id for run_id, run in plan.runs.items() if run.kind == "pretrain"}
    assert set(plan.runs) == plan.with_ancestors(ends | ladder)


# Prompts


def test_a_zero_shot_prompt_on_a_fixed_ladder_knows_neither_supervisor_nor_seed(plan_of):
    plan = plan_of("prompt", seeds=[0, 1])
    prompts = [run for run in plan.runs.values() if run.kind == "prompt"]
    assert sorted(run.rung for run in prompts) == ["d12", "d16", "d8"]
    for run in prompts:
        assert set(roles(run)) == {"base"}
        assert "d4" not in run.label
    assert {p.student_id for p in plan.pairs if p.strong == "d16"} == {only(plan, "d4", "d16", seed=1).student_id}


def test_with_a_ladder_per_seed_it_is_a_prompt_per_seed(plan_of):
    plan = plan_of("prompt", seeds=[0, 1], ladder={"seed": "per_seed", "rungs": RUNGS})
    assert kinds(plan)["prompt"] == 3 * 2


def test_weakly_labelled_shots_belong_to_a_supervisor_and_true_ones_to_none(plan_of):
    weak, true = {"name": "prompt", "shots": 2}, {"name": "prompt", "shots": 2, "labels": "ground_truth"}
    plan = plan_of(weak, true, seeds=[0, 1])
    for pair in plan.pairs:
        run = plan.runs[pair.student_id]
        assert set(roles(run)) == ({"base"} if pair.oracle else {"base", "supervisor"})
        assert run.spec.train_part == "transfer/0"
        assert run.spec.seed == pair.seed
    students = {oracle: {p.student_id for p in plan.pairs if p.oracle == oracle} for oracle in (False, True)}
    assert len(students[False]) == 6 * 2  # pairs x seeds
    assert len(students[True]) == 3 * 2  # strong rungs x seeds


@pytest.mark.parametrize("method", ["prompt", {"name": "filter", "student": "prompt"}], ids=str)
def test_a_prompt_is_for_classification_also_inside_another_method(plan_of, method):
    tasks = [
        {"name": name, "source": "facts", "form": form, "splits": {"supervise": 40, "transfer": 40, "test": 60}}
        for name, form in (("facts", "classify"), ("pairs", "compare"))
    ]
    plan = plan_of("naive", method, tasks=tasks)
    assert {p.task for p in plan.pairs if "prompt" in p.method} == {"facts"}
    assert [line.split(" on ")[1] for line in plan.not_applicable] == [
        "pairs: 6 pairs left out, prompt is for classify only"
    ]


# What a reader of the store sees


def test_the_manifest_carries_links_baselines_stops_and_oracle_marks(open_sweep):
    methods = [
        "naive",
        "bootstrap",
        "control",
        "early_stop",
        {"name": "early_stop", "by": "oracle"},
        {"name": "bootstrap", "student": {"name": "early_stop", "by": "oracle_test"}},
        {"name": "probe", "activations": "finetuned", "labels": "ground_truth"},
        "easy_to_hard",
        {"name": "prompt", "shots": 2, "labels": "ground_truth"},
    ]
    session = open_sweep(*methods, pairs=[["d4", "d16"]])
    name = write_manifest(session.store, session.spec, session.plan, session.text)
    rows = pl.read_parquet(session.store.path("sweeps", name, "manifest.parquet")).to_dicts()
    assert [row["oracle"] for row in rows] == [False, False, True, False, True, True, True, True, True]
    for row, pair in zip(rows, session.plan.pairs, strict=True):
        assert row["method"].endswith(" [oracle]") == row["oracle"]
        assert (row["links"], row["baseline"], row["stop"]) == (pair.links, pair.baseline, pair.stop)
    assert len(rows[1]["links"].split(",")) == 2
    assert set(rows[1]["links"].split(",")) < set(session.plan.runs)
    assert rows[2]["baseline"] == "control"
    assert [row["stop"] for row in rows[3:6]] == ["weak", "oracle", "oracle_test"]


def test_every_run_of_every_method_describes_itself(plan_of):
    plan = plan_of(*METHODS, pairs=[["d8", "d16"]])
    assert len(plan.pairs) == len(METHODS)
    seen: set[str] = set()
    for run_id, run in plan.runs.items():
        assert {p.run_id for p in run.parents} <= seen
        seen.add(run_id)
        description = json.loads(json.dumps(run.describe()))
        assert description["spec"]["kind"] == run.kind
        assert run.label


# Methods inside methods


def test_generative_finetuning_of_checkpoints_is_where_students_and_ceilings_start(plan_of, tmp_path):
    """Runs that have a parent's weights must not name the checkpoint that those were made from."""
    rungs = [
        {"name": name, "model": make_checkpoint(tmp_path / name, "llama", seed=seed), "pretrain_tokens": 1e9}
        for seed, name in enumerate(["small", "large"])
    ]
    task = make_task(tmp_path, n=240)
    written = {"name": "t", "source": "files", "train": list(task.train), "splits": {"transfer": 80, "supervise": 80}}
    columns = task.model_dump(include={"columns", "label_values"}, exclude_none=True)
    plan = plan_of("naive", "generative", ladder={"rungs": rungs}, tasks=[written | columns])
    pair, plain = only(plan, "small", "large", "generative"), only(plan, "small", "large", "naive")
    for run_id in (pair.student_id, pair.ceiling_id):
        assert parent(plan, run_id, "base").kind == "generative"
        assert plan.runs[run_id].spec.model is None
    for run_id in (plain.student_id, plain.ceiling_id, pair.supervisor_id):
        assert plan.runs[run_id].spec.model is not None


@pytest.mark.parametrize("student", ["ensemble", "control", "bootstrap", "generative"])
def test_a_probe_has_the_labels_and_the_baseline_of_the_student_that_it_reads(plan_of, student):
    probe = {"name": "probe", "activations": "finetuned", "ceiling": "finetuned", "student": student}
    plan = plan_of(student, probe, pairs=[["d8", "d16"]])
    probed, plain = only(plan, "d8", "d16", "probe"), only(plan, "d8", "d16", student)
    assert (probed.supervisor_id, probed.ceiling_id) == (plain.supervisor_id, plain.ceiling_id)
    assert (probed.baseline, probed.links) == (plain.baseline, plain.links)
    labels = roles(plan.runs[probed.student_id])["supervisor"]
    assert labels == roles(plan.runs[plain.student_id])["supervisor"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "bootstrap", "links": ["control", "naive"]}, "brings a supervisor of its own"),
        (
            {"name": "bootstrap", "links": [{"name": "ensemble", "members": "seeds"}, "naive"]},
            "brings a supervisor of its own",
        ),
        ({"name": "probe", "activations": "finetuned", "student": "imitation"}, "does not read the stated labels"),
        ({"name": "generative", "epochs": 5, "student": "generative"}, "inside another generative finetuning"),
        ({"name": "early_stop", "student": {"name": "early_stop", "by": "oracle"}}, "is stopped early"),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else None,
)
def test_what_would_be_lost_inside_another_method_is_refused(plan_of, method, message):
    with pytest.raises(SpecError, match=message):
        plan_of(method, pairs=[["d4", "d16"]], seeds=[0, 1])


def test_generative_finetuning_under_adapters_is_sized_for_all_weights(plan_of):
    plan = plan_of("generative", finetune={"tune": "lora"}, pairs=[["d4", "d16"]])
    pair = only(plan, "d4", "d16")
    student, base = plan.runs[pair.student_id], parent(plan, pair.student_id, "base")
    assert base is not None
    assert base.settings is not None
    assert base.settings.tune == "full"
    assert base.memory > student.memory
