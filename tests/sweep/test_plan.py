"""What makes two runs the same, and what the plan shares."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from sweep import runs
from sweep.errors import SpecError
from sweep.plan import Plan
from sweep.session import Session


def plan_of(spec) -> Plan:
    return Session.open(str(spec), str(spec.parent / "results")).plan


def kinds(plan: Plan) -> dict[str, int]:
    return dict(Counter(run.kind for run in plan.runs.values()))


def test_supervisors_and_ceilings_are_trained_once_however_many_pairs_use_them(tiny):
    plan = plan_of(tiny())
    assert len(plan.pairs) == 3 * 2  # pairs x methods
    assert kinds(plan) == {"pretrain": 3, "ground_truth": 4, "transfer": 6}
    assert len({pair.supervisor_id for pair in plan.pairs}) == 2
    assert len({pair.ceiling_id for pair in plan.pairs}) == 2


def test_parents_come_first(tiny):
    seen = set()
    for run_id, run in plan_of(tiny()).runs.items():
        assert {parent.run_id for parent in run.parents} <= seen
        seen.add(run_id)


def test_ids_do_not_depend_on_storage_folder_or_order_of_the_file(tiny, tmp_path):
    here = set(plan_of(tiny()).runs)
    elsewhere = Session.open(
        str(tiny({"methods: [naive, confidence]": "methods: [confidence, naive]"})), str(tmp_path / "b")
    )
    assert set(elsewhere.plan.runs) == here


@pytest.mark.parametrize(
    ("changes", "unchanged"),
    [
        ({"seeds: [0]": "seeds: [1]"}, set()),
        ({"schedule: linear": "schedule: cosine"}, {"pretrain"}),
        ({"value: 3.0e-4": "value: 4.0e-4"}, {"pretrain"}),
        ({"test: 600": "test: 601"}, {"pretrain"}),
        ({"tokens: 20_000": "tokens: 20_001"}, {"pretrain", "ground_truth", "transfer"}),  # d8 -> d16 stays
    ],
    ids=["seed", "schedule", "learning rate", "split", "tokens of one rung"],
)
def test_a_changed_setting_makes_new_runs_of_what_depends_on_it_only(tiny, changes, unchanged):
    before, after = plan_of(tiny()), plan_of(tiny(changes))
    common = set(before.runs) & set(after.runs)
    assert {before.runs[run_id].kind for run_id in common} == unchanged


@pytest.mark.parametrize(
    "changes", [{"seeds: [0]": "seeds: [0]\ncompute: {retries: 3, max_parallel: 1}"}, {"name: tiny": "name: other"}]
)
def test_placement_and_names_are_not_identity(tiny, changes):
    assert set(plan_of(tiny()).runs) == set(plan_of(tiny(changes)).runs)


PAIRS = """\
name: pairs
ladder:
  rungs:
    - {name: d4, hidden_size: 4, layers: 1, heads: 2, tokens: 20_000}
    - {name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 40_000}
  pretrain: {corpus: {kind: text, files: [corpus.txt]}, context: 64}
tasks: [{name: p, source: files, form: compare, train: [pairs.jsonl], columns: {prompt: q}}]
methods: [naive, generative, {name: probe, activations: finetuned}]
finetune: {learning_rate: 1.0e-3, max_length: 128}
"""


@pytest.mark.parametrize(
    ("changes", "reply", "affected"),
    [
        ({}, "a reply", set()),  # 62 tokens at most fit
        ({}, "a reply of more than sixty-two bytes, which may be as many tokens", {"ground_truth", "generative"}),
        ({"max_length: 128": "max_length: 16"}, "a reply", {"ground_truth", "generative"}),
        ({"max_length: 128": "max_length: 16", "columns: {prompt: q}": "columns: {chosen: chosen}"}, "a reply", set()),
    ],
    ids=["short", "longer than the context", "longer than max_length", "no prompts"],
)
def test_only_runs_whose_pairs_may_be_cut_are_new_when_the_cut_changes(changes, reply, affected, tmp_path, monkeypatch):
    text = PAIRS
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "corpus.txt").write_text("words\n" * 100)
    rows = [{"q": f"why {i}?", "chosen": f"{reply} {i}", "rejected": f"no {i}"} for i in range(100)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pairs.yaml").write_text(text)
    before = plan_of(tmp_path / "pairs.yaml")
    monkeypatch.setattr(runs, "LONG_PAIRS", 3)
    after = plan_of(tmp_path / "pairs.yaml")
    new = {after.runs[run_id].kind for run_id in set(after.runs) - set(before.runs)}
    # what descends from them is new with them
    assert new == (affected | {"transfer", "activations", "probe"} if affected else set())
    assert {"pretrain", "tokenizer"}.isdisjoint(new)


def test_pairs_of_the_offline_world_have_kept_their_ids(tiny):
    """From before the cut of long pairs was part of ids."""
    plan = plan_of(tiny({"source: facts": "source: facts\n    form: compare", "{supervise: 400": "{supervise: 200"}))
    assert sorted(run_id for run_id in plan.runs if run_id.startswith("ground-truth"))[:2] == [
        "ground-truth-17c1736d832ecf4a",
        "ground-truth-8a1f310929da199e",
    ]


def test_one_more_seed_adds_only_that_seeds_runs(tiny):
    before, after = plan_of(tiny()), plan_of(tiny({"seeds: [0]": "seeds: [0, 1]"}))
    assert set(before.runs) < set(after.runs)
    assert {after.runs[i].seed for i in set(after.runs) - set(before.runs)} == {1}


def test_one_more_rung_adds_only_what_touches_it(tiny):
    rung = "    - {name: d16,"
    before = plan_of(tiny())
    after = plan_of(tiny({rung: "    - {name: d12, hidden_size: 12, layers: 1, heads: 2, tokens: 40_000}\n" + rung}))
    assert set(before.runs) < set(after.runs)
    for run_id in set(after.runs) - set(before.runs):
        run = after.runs[run_id]
        assert "d12" in (run.rung, run.supervisor_rung)


def test_a_fixed_ladder_is_pretrained_once_for_all_seeds(tiny):
    plan = plan_of(tiny({"seed: per_seed": "seed: fixed", "seeds: [0]": "seeds: [0, 1]"}))
    assert kinds(plan) == {"pretrain": 3, "ground_truth": 8, "transfer": 12}


def test_with_ceilings_on_the_supervise_half_one_run_is_supervisor_and_ceiling(tiny):
    plan = plan_of(tiny({"seeds: [0]": "ceiling_half: supervise"}))
    assert kinds(plan)["ground_truth"] == 3
    roles = [{pair.supervisor_id for pair in plan.pairs}, {pair.ceiling_id for pair in plan.pairs}]
    assert len(roles[0] & roles[1]) == 1  # d8 teaches d16 and bounds d4 -> d8


def test_a_ceiling_differs_from_its_student_in_labels_only(tiny):
    plan = plan_of(tiny())
    for pair in plan.pairs:
        student, ceiling = plan.runs[pair.student_id], plan.runs[pair.ceiling_id]
        assert student.settings == ceiling.settings
        assert (student.train_part, student.seed, student.rung) == (ceiling.train_part, ceiling.seed, ceiling.rung)
        assert student.task is ceiling.task


def test_the_width_rule_is_resolved_in_the_run(tiny):
    plan = plan_of(tiny())
    rates = {run.rung: run.settings.learning_rate for run in plan.runs.values() if run.settings}
    assert rates["d8"] == pytest.approx(3e-4 * 2)
    assert rates["d16"] == pytest.approx(3e-4 * 2**0.5)


def test_the_micro_batch_follows_the_memory_in_the_spec(tiny):
    plenty = plan_of(tiny())
    little = plan_of(tiny({"seeds: [0]": "compute: {memory_gb: 0.0002}"}))
    assert {run.settings.micro_batch_size for run in plenty.runs.values() if run.settings} == {32}
    assert max(run.settings.micro_batch_size for run in little.runs.values() if run.settings and run.rung == "d16") < 32


def test_the_longest_path_is_pretraining_then_supervising_then_learning(tiny):
    plan = plan_of(tiny())
    for run in plan.runs.values():
        below = [plan.path_work[child] for child in plan.children[run.run_id]]
        assert plan.path_work[run.run_id] == run.work + max(below, default=0.0)


def test_every_run_describes_itself_in_json(tiny):
    for run in plan_of(tiny()).runs.values():
        description = json.loads(json.dumps(run.describe()))
        assert description["run_id"] == run.run_id
        assert description["spec"]["kind"] == run.kind


def test_a_ladder_that_goes_down_is_refused(tiny):
    swapped = {"name: d4, hidden_size: 4": "name: d4, hidden_size: 64"}
    with pytest.raises(SpecError, match=r"'d8' .*comes after 'd4'.*from small to large"):
        plan_of(tiny(swapped))


def test_only_selects_a_kind_or_an_id(tiny):
    session = Session.open(str(tiny()), None)
    assert len(session.select(["ground_truth"])) == 4
    one = next(iter(session.plan.runs))
    assert session.select([one[:-4]]) == {one}
    with pytest.raises(SpecError, match="did you mean 'transfer'"):
        session.select(["transfr"])


def test_descendants_and_ancestors_are_each_others_inverse(tiny):
    plan = plan_of(tiny())
    for run_id in plan.runs:
        for below in plan.descendants([run_id]):
            assert run_id in plan.with_ancestors([below])


def test_a_run_is_plain_data(tiny):
    run = next(iter(plan_of(tiny()).runs.values()))
    assert replace(run, keep_weights=False).run_id == run.run_id
