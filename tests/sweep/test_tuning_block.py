"""The `tune:` block of a sweep file: what it says when little is written, and how it says no."""

import subprocess
import sys

import pytest

from sweep.errors import SpecError
from sweep.spec import load_spec
from sweep.tuning.block import PrunerSpec, Tune
from sweep.tuning.checks import scopes
from sweep.tuning.fields import is_given, method_with, of_finetuning
from w2s.config import MethodSpec
from w2s.methods import MethodError, build_method

LAST_LINE = "  eval_every: 10\n"
WEIGHT = "method.max_weight: {low: 0.0, high: 1.0}"


def block(space=WEIGHT, method="confidence", more="", fresh="{seeds: [3]}", budget="{trials: 4}") -> dict[str, str]:
    """Adds a tune block, whose space begins in line 23, to the tiny spec."""
    lines = [f"  method: {method}", f"  fresh: {fresh}", f"  budget: {budget}", "  space:"]
    lines += [f"    {line}" for line in space.split("\n")] + [f"  {line}" for line in more.split("\n") if line]
    return {LAST_LINE: LAST_LINE + "\n".join(["tune:", *lines]) + "\n"}


def refused(tiny, **parts) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(tiny(block(**parts)))
    return str(caught.value).rpartition("/")[2]


def test_little_need_be_written(tiny):
    tune = load_spec(tiny(block())).tune
    assert tune is not None
    assert tune.method == MethodSpec(name="confidence")
    assert (tune.objective, tune.metrics, tune.sampler, tune.seed) == ("weak", {"weak": "agreement"}, "tpe", 0)
    assert tune.pruner == PrunerSpec(name="wilcoxon", p=0.1, startup=2)
    assert load_spec(tiny()).tune is None


def test_left_out_instances_are_all_of_the_spec_and_fresh_ones_those_of_the_search(tiny):
    spec = load_spec(tiny(block(more="instances: {pairs: [[d8, d16], [d4, d8]]}", fresh="{seeds: [7, 5]}")))
    assert spec.tune is not None
    search, fresh = scopes(spec.tune, spec)
    assert search.pairs == fresh.pairs == (("d4", "d8"), ("d8", "d16"))
    assert (search.tasks, search.seeds) == (("facts",), (0,))
    assert (fresh.tasks, fresh.seeds) == (("facts",), (7, 5))
    spec = load_spec(tiny(block(fresh="{seeds: [1], pairs: adjacent}")))
    assert spec.tune is not None
    search, fresh = scopes(spec.tune, spec)
    assert search.pairs == (("d4", "d8"), ("d4", "d16"), ("d8", "d16"))
    assert fresh.pairs == (("d4", "d8"), ("d8", "d16"))


@pytest.mark.parametrize(
    ("more", "metrics"),
    [
        ("objective: oracle", {"oracle": "pgr"}),
        ("objective: both", {"weak": "agreement", "oracle": "pgr"}),
        ("objective: both\nmetric: confidence", {"weak": "confidence", "oracle": "pgr"}),
        ("objective: both\nmetric: {oracle: log_loss}", {"weak": "agreement", "oracle": "log_loss"}),
        ("metric: weak_log_loss", {"weak": "weak_log_loss"}),
    ],
)
def test_metrics_belong_to_objectives(tiny, more, metrics):
    tune = load_spec(tiny(block(more=more))).tune
    assert tune is not None
    assert tune.metrics == metrics


def test_two_objectives_leave_the_default_pruner_out(tiny):
    tune = load_spec(tiny(block(more="minimize_flops: true"))).tune
    assert tune is not None
    assert tune.pruner.name == "none"
    assert "tune.pruner: with minimize_flops what is worse may be cheaper" in refused(
        tiny, more="minimize_flops: true\npruner: halving"
    )


def test_whole_numbers_are_those_of_settings_that_take_no_others(tiny):
    space = "\n".join(
        f"{key}: {{low: 1, high: 2}}"
        for key in ("finetune.epochs", "finetune.learning_rate_factor", "method.rounds", "method.student.alpha")
    )
    inner = "finetune.lora.rank: {low: 2, high: 4}\nfinetune.lora.alpha: {low: 2, high: 4}\nfinetune.tune: [lora]"
    tune = load_spec(tiny(block(f"{space}\n{inner}", method="{name: relabel, student: product}"))).tune
    assert tune is not None
    whole = {key for key in tune.space.names if key != "finetune.tune" and key not in tune.space.endless}
    assert whole == {"finetune.epochs", "method.rounds", "finetune.lora.rank"}


def test_whole_numbers_of_an_inner_method_that_is_searched_itself(tiny):
    space = (
        "method.student: [naive, relabel]\nmethod.student.rounds: {low: 1, high: 3, when: {method.student: relabel}}"
    )
    tune = load_spec(tiny(block(space, method="bootstrap"))).tune
    assert tune is not None
    assert tune.space.size == 4


def test_a_dumped_block_is_read_again_as_the_same(tiny):
    space = f"{WEIGHT}\nmethod.labels: [soft, hard]\nmethod.warmup: {{low: 0, high: 1, when: {{method.labels: soft}}}}"
    for more in (
        "minimize_flops: true",
        "pruner: {name: halving, factor: 2}\nobjective: both\nmetric: {weak: confidence}",
    ):
        tune = load_spec(tiny(block(space, more=more))).tune
        assert tune is not None
        assert Tune.model_validate(tune.model_dump(mode="json")) == tune


@pytest.mark.parametrize(
    ("space", "method", "message"),
    [
        ("{}", "naive", "23: tune.space: the space is empty"),
        ("method.max_weight: {low: 1, high: 0}", "confidence", "24: tune.space.method.max_weight.low: low 1 is above"),
        ("method.max_weight: {lwo: 1, high: 2}", "confidence", "max_weight.lwo: unknown key; did you mean 'low'?"),
        ("method.max_weight: {low: x, high: 2}", "confidence", "max_weight.low: a number is needed, got 'x'"),
        ("method.labels: []", "confidence", "24: tune.space.method.labels: at least one is needed, got []"),
        (
            "max_weight: [1]",
            "confidence",
            "tune.space.max_weight: parameters begin with method. or finetune.; did you mean 'method.max_weight'?",
        ),
        ("methods.max_weigt: [1]", "confidence", "did you mean 'method.max_weight'?"),
        (
            "finetune.lerning_rate_factor: [1]",
            "naive",
            "there is no finetuning setting 'lerning_rate_factor'; did you mean 'learning_rate_factor'?",
        ),
        (
            "method.max_wieght: [1]",
            "confidence",
            "24: tune.space.method.max_wieght: method 'confidence' has no parameter 'max_wieght'; did you "
            "mean 'max_weight'?",
        ),
        ("method.name: [naive]", "confidence", "tune.space.method.name: the method itself is not searched"),
        (
            "method.max_weight: {low: 0, high: 5}",
            "confidence",
            "tune.space.method.max_weight.high: method 'confidence', parameter 'max_weight': input should be "
            "less than or equal to 1, got 5.0",
        ),
        (
            "method.max_weight: {low: -1, high: 1}",
            "confidence",
            "tune.space.method.max_weight.low: method 'confidence', parameter 'max_weight': input should be "
            "greater than or equal to 0, got -1.0",
        ),
        (
            "method.labels: [soft, hrad]",
            "confidence",
            "tune.space.method.labels[1]: method 'confidence', parameter 'labels': input should be 'soft', 'hard'",
        ),
        ("finetune.epochs: [1, 0]", "naive", "tune.space.finetune.epochs[1]: must be greater than 0, got 0"),
        (
            "finetune.epochs: {low: 1, high: 2.5}",
            "naive",
            "tune.space.finetune.epochs.high: a whole number is needed, as this setting takes no others; got 2.5",
        ),
        (
            "finetune.epochs: {low: 1, high: 2, whole: false}",
            "naive",
            "finetune.epochs.whole: this setting takes whole numbers only",
        ),
        (
            "finetune.learning_rate_factor: {low: -1, high: 1}",
            "naive",
            "tune.space.finetune.learning_rate_factor.low: a number above 0 is needed, got -1.0",
        ),
        (
            "finetune.lora.rank: [4, 8]",
            "naive",
            "tune.space.finetune.lora.rank: says nothing where no adapters are trained",
        ),
        ("finetune.lora.rnak: [4, 8]", "naive", "tune.space.finetune.lora.rnak: unknown key; did you mean 'rank'?"),
        (
            WEIGHT,
            "{name: confidence, max_weight: 0.5}",
            "tune.space.method.max_weight: is given in tune.method as well",
        ),
        (
            "method.student.beta: [0]",
            "{name: relabel, student: {name: product, beta: 1}}",
            "is given in tune.method as well",
        ),
        (
            "method.student.beta: [-1]",
            "{name: relabel, student: product}",
            "tune.space.method.student.beta: method 'relabel', parameter 'student': method 'product', parameter 'beta'",
        ),
        (
            "method.student.beta: [0, 1]",
            "relabel",
            "tune.space.method.student.beta: method 'relabel', parameter 'student': method 'naive' has no "
            "parameter 'beta'",
        ),
        (
            "method.student: [naive, product]\nmethod.student.beta: [0, 1]",
            "relabel",
            "25: tune.space.method.student.beta: method 'relabel', parameter 'student': method 'naive' has "
            "no parameter 'beta'; it has: labels (with method.student: naive;",
        ),
        (
            "method.by: [confidence, probe]\nmethod.relabel: [true, false]",
            "filter",
            "25: tune.space.method.relabel[0]: method 'filter': relabel goes with by: probe or knn, not with "
            "confidence (with method.by: confidence; a `when` can keep them apart)",
        ),
        ("method.chain: {subset: [d9]}", "bootstrap", "tune.space.method.chain.subset[0]: the ladder has no rung 'd9'"),
        (
            "method.chain: {subset: [d8]}",
            "bootstrap",
            "24: tune.space.method.chain.subset[0]: rung 'd8' does not lie between weak and strong of the "
            "pair [d4, d8] of instances",
        ),
        (
            "method.chain: [all, [d16]]",
            "bootstrap",
            "24: tune.space.method.chain[1][0]: rung 'd16' does not lie between weak and strong of the pair "
            "[d4, d8] of instances",
        ),
        (
            "method.by: [weak, oracle]",
            "early_stop",
            "24: tune.space.method.by[1]: method 'early_stop' then looks at ground truth, and objective: weak may not",
        ),
        (
            "method.student: [naive]",
            "{name: early_stop, by: oracle}",
            "20: tune.method: method 'early_stop' then looks at ground truth",
        ),
        (
            "method.rounds: [1]",
            "{name: relabel, round: 2}",
            "20: tune.method: method 'relabel' has no parameter 'round'; did you mean 'rounds'?",
        ),
        (
            "method.labels: [soft]",
            "{name: naive, finetune: {epochs: 3}}",
            "tune.method.finetune: finetuning settings of candidates belong in the space",
        ),
        ("method.labels: [soft]", "[naive]", "tune.method: a method is a name or a mapping with a name"),
    ],
)
def test_a_wrong_space_is_refused_with_its_place(tiny, space, method, message):
    assert message in refused(tiny, space=space, method=method)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("sampler: grid", "24: tune.space.method.max_weight: a grid needs finitely many values"),
        ("sampler: cmaes", "25: tune.sampler: cmaes needs two numbers to vary"),
        ("sampler: tep", "tune.sampler: must be 'tpe', 'gp', 'cmaes', 'random' or 'grid', got 'tep'"),
        ("metric: pgr", "25: tune.metric: 'pgr' looks at ground truth, but the objective is weak"),
        ("metric: agreemnt", "unknown metric 'agreemnt'; did you mean 'agreement'?"),
        ("objective: both\nmetric: {weak: accuracy}", "26: tune.metric.weak: 'accuracy' looks at ground truth, but"),
        ("objective: oracle\nmetric: {weak: agreement}", "tune.metric.weak: objective is oracle, so nothing"),
        ("pruner: halvin", "tune.pruner: must be 'wilcoxon', 'halving' or 'none', got 'halvin'"),
        ("pruner: {name: halving, p: 0.2}", "25: tune.pruner.p: is a setting of pruner wilcoxon, not of halving"),
        ("pruner: {p: 0.2}", "tune.pruner: needs a name: wilcoxon, halving, none"),
        ("pruner: {name: wilcoxon, p: 1}", "tune.pruner.p: must be less than 1, got 1"),
        ("instances: {seeds: [3]}", "tune.fresh.seeds[0]: seed 3 is searched on, too"),
        ("instances: {seeds: [1, 1]}", "25: tune.instances.seeds[1]: seed '1' is given twice"),
        ("instances: {seeds: []}", "tune.instances.seeds: at least one is needed, got []"),
        ("instances: {tasks: [fact]}", "tune.instances.tasks[0]: the spec has no task 'fact'; did you mean 'facts'?"),
        ("instances: {pairs: [[d8, d4]]}", "25: tune.instances.pairs[0]: [d8, d4] has its weak rung at or above"),
        ("instances: {pairs: [[d8, d17]]}", "names no rung 'd17'; did you mean 'd16'?"),
        ("instances: {pairs: nearby}", "tune.instances.pairs: must be all, adjacent, or a list such as"),
        ("instances: {pairs: [[d4, d8], [d4, d8]]}", "tune.instances.pairs[1]: pair [d4, d8] is given twice"),
        ("concurrent: 0", "tune.concurrent: must be greater than 0, got 0"),
        ("seed: true", "tune.seed: a whole number is needed, got true"),
        ("objectiv: weak", "25: tune.objectiv: unknown key; did you mean 'objective'?"),
    ],
)
def test_the_rest_of_a_wrong_block_is_refused_with_its_place(tiny, more, message):
    assert message in refused(tiny, more=more)


def test_a_search_ends_and_is_tested_on_seeds_of_its_own(tiny):
    assert "tune.budget: says nothing, so the search would never end" in refused(tiny, budget="{}")
    assert "tune.budget.trials: must be greater than 0, got 0" in refused(tiny, budget="{trials: 0}")
    assert "tune.fresh.seeds: is required but missing" in refused(tiny, fresh="{tasks: [facts]}")
    assert "21: tune.fresh.seeds[1]: seed 0 is searched on, too (instances take" in refused(
        tiny, fresh="{seeds: [3, 0]}"
    )


def test_chains_fit_fresh_pairs_as_well_and_climb(tiny):
    chain, pair = "method.chain: {subset: [d8]}", "instances: {pairs: [[d4, d16]]}"
    assert load_spec(tiny(block(chain, method="bootstrap", more=pair))).tune is not None
    fresh = "{seeds: [1], pairs: [[d8, d16]]}"
    message = refused(tiny, space=chain, method="bootstrap", more=pair, fresh=fresh)
    assert "rung 'd8' does not lie between weak and strong of the pair [d8, d16] of fresh" in message
    message = refused(tiny, space="method.chain: {subset: [d8, d4]}", method="bootstrap", more=pair)
    assert "method.chain.subset[1]: chains climb the ladder: write [d4, d8]" in message


def test_oracles_may_be_searched_by_oracles_only(tiny):
    space = "method.by: [weak, oracle]"
    assert load_spec(tiny(block(space, method="early_stop", more="objective: oracle"))).tune is not None
    assert "objective: both may not" in refused(tiny, space=space, method="early_stop", more="objective: both")


@pytest.mark.parametrize(
    ("sampler", "second", "message"),
    [
        ("cmaes", "method.labels: [soft, hard]", "'method.labels' is a choice; use tpe or gp"),
        ("cmaes", "method.warmup: {low: 0, high: 1}", None),
        ("gp", "method.labels: [soft, hard]", None),
        (
            "gp",
            "method.labels: [soft, hard]\nmethod.warmup: {low: 0, high: 1, when: {method.labels: soft}}",
            "gp cannot model 'method.warmup', which exists only under a condition; use tpe",
        ),
    ],
)
def test_samplers_get_only_spaces_that_they_can_model(tiny, sampler, second, message):
    space = f"{WEIGHT}\n{second}"
    if message is None:
        assert load_spec(tiny(block(space, more=f"sampler: {sampler}"))).tune is not None
    else:
        assert message in refused(tiny, space=space, more=f"sampler: {sampler}")


def test_large_spaces_are_tried_in_part_and_rare_mistakes_still_found(tiny):
    others = "\n".join(f"finetune.{key}: [{values}]" for key, values in {
        "batch_size": "8, 16, 32, 64", "schedule": "cosine, linear, constant",
        "warmup_fraction": "0, 0.1, 0.2", "weight_decay": "0, 0.1, 0.2, 0.3", "dropout": "0, 0.1, 0.2",
    }.items())  # fmt: skip
    epochs = ", ".join(map(str, range(1, 13)))
    rare = "{method.labels: balanced, method.balance: weak_batch, finetune.epochs: 7}"
    wrong = (
        f"finetune.epochs: [{epochs}]\nmethod.labels: [soft, hard, balanced]\n"
        "method.balance: [half, weak_prior, weak_batch]\n"
        f"method.warmup: {{choices: [0.1, 0.2, 0.3, 0.4, 0.5, 2.0], when: {rare}}}"
    )
    assert load_spec(tiny(block(f"{others}\n{wrong.replace('2.0', '0.6')}"))).tune is not None
    message = refused(tiny, space=f"{others}\n{wrong}")
    assert "tune.space.method.warmup[5]: method 'confidence', parameter 'warmup'" in message


def test_the_value_at_fault_is_blamed_not_what_it_depends_on(tiny):
    inner = "method.student.max_weight: {low: 0, high: 5, when: {method.student: confidence}}"
    space = f"method.student: [naive, confidence]\n{inner}"
    message = refused(tiny, space=space, method="bootstrap")
    assert "25: tune.space.method.student.max_weight.high: method 'bootstrap', parameter 'student': method" in message
    assert message.endswith("less than or equal to 1, got 5.0")
    two = refused(tiny, space="method.max_weight: [2]\nmethod.warmup: [3]")
    assert "24: tune.space.method.max_weight: " in two


def test_methods_with_parameters_of_a_candidate():
    chain = MethodSpec(name="bootstrap", params={"student": "confidence"})
    found = method_with(chain, {"method.student.warmup": 0.1, "method.student.max_weight": 0.2, "method.data": "fresh"})
    assert found.params == {"student": {"name": "confidence", "warmup": 0.1, "max_weight": 0.2}, "data": "fresh"}
    assert chain.params == {"student": "confidence"}  # as it was
    found = method_with(chain, {"method.student.alpha": 2.0, "method.student": "product", "finetune.epochs": 3})
    assert found.params == {"student": {"name": "product", "alpha": 2.0}}
    found = method_with(chain, {"method.student.alpha": 2.0, "method.student.name": "product"})
    assert found.params == {"student": {"name": "product", "alpha": 2.0}}


def test_parameters_of_links_are_those_of_all_links_or_of_one():
    links = MethodSpec(name="bootstrap", params={"links": ["confidence", {"name": "confidence", "warmup": 0.3}]})
    both = method_with(links, {"method.links.max_weight": 0.7})
    assert both.params["links"] == [
        {"name": "confidence", "max_weight": 0.7},
        {"name": "confidence", "warmup": 0.3, "max_weight": 0.7},
    ]
    one = method_with(links, {"method.links.0.max_weight": 0.7})
    assert one.params["links"][0] == {"name": "confidence", "max_weight": 0.7}
    assert build_method(one).model_dump()["links"][1]["max_weight"] == 0.5
    hard = method_with(MethodSpec(name="bootstrap"), {"method.links.labels": "hard"})
    assert build_method(hard).model_dump()["links"] == ({"name": "naive", "labels": "hard"},)
    with pytest.raises(MethodError, match="links has no entry 2"):
        method_with(links, {"method.links.2.max_weight": 0.7})
    with pytest.raises(MethodError, match="'data' is no method that could have a parameter 'x'"):
        method_with(links, {"method.data.x": 1})


def test_what_is_given_in_a_method():
    method = MethodSpec(
        name="bootstrap", params={"student": "confidence", "links": [{"name": "naive", "labels": "hard"}]}
    )
    assert is_given(method, "method.student")
    assert is_given(method, "method.links.labels")
    assert is_given(method, "method.links.0.labels")
    assert not is_given(method, "method.student.max_weight")
    assert not is_given(method, "method.links.1.labels")
    assert not is_given(method, "method.chain")


def test_finetuning_settings_of_a_candidate_are_nested():
    params = {
        "finetune.lora.rank": 8,
        "finetune.learning_rate_factor": 2.0,
        "method.labels": "hard",
        "finetune.lora": {"alpha": 4},
    }
    assert of_finetuning(params) == {"lora": {"alpha": 4, "rank": 8}, "learning_rate_factor": 2.0}


def test_a_block_is_checked_without_torch_ray_or_optuna(tiny):
    code = (
        f"import sys; from sweep.spec import load_spec; assert load_spec({str(tiny(block()))!r}).tune; "
        "print({'torch', 'ray', 'optuna'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"
