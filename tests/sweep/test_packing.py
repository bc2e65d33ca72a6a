"""Placement: what runs ask for, the ladder after running out of memory, room for large runs, learning. All pure."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.errors import SweepError
from sweep.execution.cluster import Cluster, pending_runs
from sweep.execution.frontier import Frontier
from sweep.execution.measured import Learned, learn, measurement_of, out_of_memory_before
from sweep.execution.room import Room, Started
from sweep.execution.shapes import Ask, Shapes, ask_of, bundle_of, pending_trials, units_in
from sweep.plan import Plan, Run
from sweep.resources import Memory, Sizes, micro_batch_that_fits
from sweep.spec import Compute
from sweep.storage.store import Store
from w2s.config import FinetuneSettings

B7 = Sizes("llama", 6_700_000_000, 6_500_000_000, 4096, 32, 32, 32_000, tied=False)
MEDIUM = Sizes("gpt2", 355_000_000, 354_000_000, 1024, 24, 16, 50_257)


def needs(sizes: Sizes = MEDIUM, *, rows: int = 8, length: float = 256, **changes: Any) -> Memory:
    options = {"trained": sizes.body, "rows": rows, "batch_rows": 32, "length": length, "evaluated": 1000}
    return Memory(sizes=sizes, does="train", **(options | changes))


def run_of(memory: Memory | None = None, *, name: str = "r", kind: str = "ground_truth", **changes: Any) -> Run:
    settings = FinetuneSettings(micro_batch_size=8)
    bytes_ = memory.on(gpu=True) if memory else 1e6
    return Run(name, kind, "rung", 0, (), work=1e12, memory=bytes_, settings=settings, needs=memory, **changes)  # pyright: ignore[reportArgumentType]


def plan_of(*runs: Run) -> Plan:
    return Plan(runs={run.run_id: run for run in runs}, pairs=(), requested=0)


def gpus(count: int, kind: str = "A100-80G", nodes: int = 1) -> Cluster:
    return Cluster(tuple({"CPU": 32.0, "GPU": float(count), f"accelerator_type:{kind}": 1.0, "train_slot": 8.0}
                         for _ in range(nodes)))  # fmt: skip


def shapes_on(cluster: Cluster, learned: Learned | None = None, **compute: Any) -> Shapes:
    return Shapes(Compute(**compute), 1, cluster=cluster, learned=learned)


# -- estimates -------------------------------------------------------------------------------------------------


@given(st.sampled_from([MEDIUM, B7]), st.integers(1, 64), st.integers(8, 2048), st.booleans())
def test_more_tokens_never_need_less_and_sharding_or_checkpointing_never_more(sizes, rows, length, gpu):
    run = needs(sizes, rows=rows, length=length)
    assert run.on(gpu=gpu) <= replace(run, rows=rows + 1).on(gpu=gpu)
    assert run.on(gpu=gpu) <= replace(run, length=length + 1).on(gpu=gpu)
    assert replace(run, checkpointing=True).on(gpu=gpu) <= run.on(gpu=gpu) * 1.001
    assert run.on(gpu=gpu, devices=2) <= run.on(gpu=gpu)
    assert run.on(gpu=gpu, devices=4, sharded=True) < run.on(gpu=gpu, devices=4)
    assert run.on(gpu=gpu, devices=8, sharded=True) < run.on(gpu=gpu, devices=4, sharded=True)


def test_a_seven_billion_model_trains_on_eight_80_gb_gpus_cut_but_not_whole():
    run = needs(B7, rows=4, length=512)
    assert run.on(gpu=True) > 16 * 6.5e9
    assert run.on(gpu=True, devices=8, sharded=True) < 40e9
    assert replace(run, trained=1e7).on(gpu=True) < 60e9  # adapters: weights, their bfloat16 copies, activations


def test_an_output_head_over_the_vocabulary_counts_where_one_is_computed():
    classify, generative = needs(), replace(needs(), does="language_model", trained=MEDIUM.n_params)
    tokens = 8 * 256
    assert generative.on(gpu=False) - classify.on(gpu=False) > 8 * tokens * MEDIUM.vocab_size


@pytest.mark.parametrize(
    ("sizes", "budget", "trainable", "size"),
    [
        ((124e6, 768, 12), 4e9, 1.0, 4),
        ((124e6, 768, 12), 8e9, 1.0, 16),
        ((355e6, 1024, 24), 8e9, 1.0, 2),
        ((355e6, 1024, 24), 8e9, 0.02, 4),
        ((6.7e9, 4096, 32), 8e9, 1.0, 1),
    ],
)
def test_the_rule_behind_micro_batches_stays_as_it_was_for_its_results_are_in_the_names_of_runs(
    sizes, budget, trainable, size
):
    assert size == micro_batch_that_fits(
        *sizes, tokens_per_example=512, batch_size=32, budget=budget, trainable=trainable
    )


# -- shapes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "share"), [("A100-80G", 0.25), ("A100", 0.5), ("A10G", 1.0), ("H200", 0.125)])
def test_a_run_asks_for_the_share_of_the_gpu_that_is_there(kind, share):
    run = run_of(needs())
    assert 9e9 < run.memory < 15e9
    assert shapes_on(gpus(2, kind)).of(run) == {"CPU": 1.0, "GPU": share, "use_gpu": 1.0}


def test_the_spec_overrides_what_ray_says_of_a_gpu():
    run = run_of(needs())
    assert shapes_on(gpus(2, "H200"), gpu_memory_gb=24).of(run)["GPU"] == 1.0


def test_measured_memory_corrects_the_share():
    run = run_of(needs())
    estimated = run.memory
    metrics = {"seconds": 9.0, "device": "NVIDIA A100", "peak_memory_bytes": estimated / 2, "baseline_memory_bytes": 0}
    found = measurement_of(run, metrics)
    assert found is not None
    assert shapes_on(gpus(2), Learned([found])).of(run)["GPU"] == 0.125
    double = replace(found, grown=2 * estimated)
    assert shapes_on(gpus(2), Learned([found, double])).of(run)["GPU"] == 0.5  # the upper quantile


def test_of_gpus_of_two_sizes_a_large_run_asks_for_the_larger():
    cluster = Cluster((*gpus(4, "A10G").nodes, *gpus(4, "A100-80G").nodes))
    small, large = run_of(needs(rows=1)), run_of(needs(rows=64, batch_rows=64))
    assert 30e9 < large.memory < 80e9
    assert "accelerator_type:A100-80G" not in shapes_on(cluster).of(small)
    assert bundle_of(shapes_on(cluster).of(large)) == {"CPU": 1.0, "GPU": 1.0, "accelerator_type:A100-80G": 0.001}


def test_a_run_larger_than_a_gpu_is_cut_over_as_few_as_it_fits_on():
    run = run_of(needs(B7, rows=4, length=512))
    shape = shapes_on(gpus(8)).of(run)
    assert shape == {"train_slot": 1.0, "devices": 2.0, "use_gpu": 1.0, "threads": 1.0, "fsdp": 1.0}
    assert bundle_of(shape) == {"train_slot": 1.0}
    assert shapes_on(gpus(8, "L40S")).of(run)["devices"] == 8.0
    assert shapes_on(gpus(8, "L40S"), parallel="replicate").of(run) == {"CPU": 1.0, "GPU": 1.0, "use_gpu": 1.0}
    assert shapes_on(gpus(8), devices_per_run=8).of(run)["fsdp"] == 1.0
    assert "fsdp" not in shapes_on(gpus(8), devices_per_run=8).of(run_of(needs()))
    assert shapes_on(gpus(8), devices_per_run=8, parallel="fsdp").of(run_of(needs()))["fsdp"] == 1.0


def test_on_cpus_a_run_is_on_one_device_unless_the_spec_says_otherwise():
    laptop = Cluster(({"CPU": 4.0, "train_slot": 4.0},))
    run = run_of(needs(B7))
    assert shapes_on(laptop).of(run) == {"CPU": 1.0}
    shape = shapes_on(laptop, devices_per_run=2, parallel="fsdp").of(run)
    assert shape == {"train_slot": 1.0, "devices": 2.0, "use_gpu": 0.0, "threads": 1.0, "fsdp": 1.0}
    assert shapes_on(laptop, devices_per_run=2).of(run_of(None, kind="labels")) == {"CPU": 1.0}


def test_the_manual_names_every_value_of_the_keys_that_cut_runs_and_what_may_be_given():
    manual = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    rows = {row.split("|")[2].strip(): row for row in manual.splitlines() if row.startswith("|") and "`" in row}
    values = get_args(Compute.model_fields["parallel"].annotation)
    assert values
    assert [f"`{value}`" in {name.split(" ")[0] for name in rows} for value in values] == [True] * len(values)
    assert "any whole number from 1" in rows
    laptop = Cluster(({"CPU": 4.0, "train_slot": 4.0},), is_own=True)
    assert shapes_on(laptop, devices_per_run=3).of(run_of(needs()))["devices"] == 3.0


def test_a_cluster_without_slots_of_ours_lends_its_head_node():
    cluster = Cluster(({"CPU": 4.0, "node:__internal_head__": 1.0}, {"CPU": 4.0}))
    assert bundle_of(shapes_on(cluster, devices_per_run=2).of(run_of())) == {"node:__internal_head__": 0.001}


@pytest.mark.parametrize(
    ("cluster", "compute", "message"),
    [
        (
            gpus(1, "A10G"),
            {},
            r"needs about 144\.\d GB on one GPU; the largest here has 24 GB. The .* do is B200.*take 16, there are 1",
        ),
        (
            gpus(8, "A10G"),
            {"parallel": "replicate"},
            r"B200 \(180 GB\), and with compute\.parallel: replicate each of several holds all of it\. Or lower",
        ),
        (
            Cluster(({"CPU": 2.0, "memory": 7e9},)),
            {},
            r"needs about 1\d\d\.\d GB of memory; the largest .* 10 GB.*lora",
        ),
        (Cluster(({"CPU": 2.0},)), {"devices_per_run": 4}, r"asks for 4 devices .*together have 2.*to 2"),
    ],
    ids=["gpu", "replicated", "cpu", "devices"],
)
def test_a_run_too_large_for_any_node_is_refused_with_the_smallest_that_would_do(cluster, compute, message):
    run = run_of(needs(B7, rows=4, length=512))
    plan = plan_of(run)
    with pytest.raises(SweepError, match=message):
        shapes_on(cluster, **compute).check(Frontier(plan, {"r"}), plan, cluster)


@pytest.mark.parametrize("cluster", [gpus(64), Cluster(({"CPU": 2.0, "memory": 7e9},))], ids=["gpu", "cpu"])
def test_of_several_runs_too_large_the_first_of_the_plan_is_named_with_what_makes_it_smaller(cluster):
    whole = replace(B7, n_params=100_000_000_000, n_matmul=99_000_000_000)
    runs = [run_of(needs(whole, rows=4, length=512), name=f"r{i}", kind="transfer") for i in range(20)]
    first = run_of(replace(needs(whole, rows=4, length=512), does="language_model"), name="first", kind="pretrain")
    plan = plan_of(first, *runs)
    with pytest.raises(
        SweepError, match=r"^pretrain rung seed 0: needs about [\d.]+ TB .*ladder\.pretrain\.batch_size"
    ) as told:
        shapes_on(cluster).check(Frontier(plan, set(plan.runs)), plan, cluster)
    if cluster.has_gpus:
        assert "runs of kind pretrain are not cut over several" in str(told.value)


def test_a_run_that_a_node_yet_to_come_can_hold_is_not_refused():
    run = run_of(needs(B7, rows=4, length=512))
    plan, cluster = plan_of(run), Cluster(({"CPU": 2.0},), growable=gpus(8).nodes)
    shapes_on(cluster).check(Frontier(plan, {"r"}), plan, cluster)


def test_tune_has_several_trials_waiting_only_where_that_helps(monkeypatch):
    import os

    monkeypatch.delenv("TUNE_MAX_PENDING_TRIALS_PG", raising=False)
    same = plan_of(*(run_of(name=f"r{i}") for i in range(20)))
    laptop = Cluster(({"CPU": 4.0, "train_slot": 4.0},), is_own=True)
    assert shapes_on(laptop).pending(Frontier(same, set(same.runs)), same, laptop) is None
    growing = replace(laptop, growable=({"CPU": 4.0},), is_own=False)
    assert shapes_on(growing).pending(Frontier(same, set(same.runs)), same, growing) == pending_runs(growing)
    mixed = plan_of(run_of(name="a"), replace(run_of(name="b"), settings=FinetuneSettings(cpu_threads=2)))
    assert shapes_on(laptop).pending(Frontier(mixed, set(mixed.runs)), mixed, laptop) == 4
    with pending_trials(4):
        assert os.environ["TUNE_MAX_PENDING_TRIALS_PG"] == "4"
    assert "TUNE_MAX_PENDING_TRIALS_PG" not in os.environ
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "7")  # a user's own
    with pending_trials(4):
        assert os.environ["TUNE_MAX_PENDING_TRIALS_PG"] == "7"


# -- the ladder ------------------------------------------------------------------------------------------------


def climb(shapes: Shapes, plan: Plan, run_id: str = "r") -> list[tuple[float, int]]:
    """GPU share (or CPUs) and micro-batch divisor of each attempt of a run that never fits."""
    frontier = Frontier(plan, {run_id}, can_grow=shapes.can_grow)
    tried = []
    while frontier.pop():
        shape = shapes.of(plan.runs[run_id], frontier.growth(plan.runs[run_id]))
        tried.append((shape.get("GPU", shape.get("CPU", 0)), frontier.divisors.get(run_id, 1)))
        frontier.fail(run_id, "out of memory", out_of_memory=True)
    assert frontier.failed == {run_id: "out of memory"}
    return tried


def test_out_of_memory_takes_a_larger_share_first_and_then_a_smaller_micro_batch():
    run = run_of(needs())
    assert climb(shapes_on(gpus(2)), plan_of(run)) == [
        (0.25, 1), (0.5, 1), (1.0, 1), (1.0, 2), (1.0, 4), (1.0, 8)
    ]  # fmt: skip


def test_on_a_cpu_it_first_gets_a_machine_to_itself():
    laptop = Cluster(({"CPU": 4.0},))
    assert climb(shapes_on(laptop), plan_of(run_of())) == [(1, 1), (4, 1), (4, 2), (4, 4), (4, 8)]


def test_climbing_does_not_use_up_the_attempts_of_other_failures():
    plan = plan_of(run_of())
    frontier = Frontier(plan, {"r"}, retries=1)
    for _ in range(3):
        frontier.pop()
        assert frontier.fail("r", "out of memory", out_of_memory=True)
    frontier.pop()
    assert frontier.fail("r", "something else")
    frontier.pop()
    assert not frontier.fail("r", "something else")


def test_runs_alike_start_with_the_share_that_one_of_them_needed_and_none_climbs_twice_for_one_lesson():
    shapes, memory = shapes_on(gpus(2)), needs()
    plan = plan_of(*(run_of(memory, name=name) for name in "abc"))
    frontier = Frontier(plan, set(plan.runs), can_grow=shapes.can_grow)
    assert [frontier.pop(), frontier.pop()] == ["a", "b"]
    assert frontier.fail("a", "out of memory", out_of_memory=True)
    assert frontier.fail("b", "out of memory", out_of_memory=True)  # in the small share, begun before
    assert {frontier.growth(run) for run in plan.runs.values()} == {1}
    assert frontier.divisors == {}


def test_the_next_execution_begins_where_the_ladder_had_brought_a_run(tmp_path):
    store, run = Store(tmp_path), run_of(needs())
    plan = plan_of(run)
    for kind in ("OutOfMemoryError", "WorkerDied", "OutOfMemoryError", "OutOfMemoryError"):
        store.record_failure("r", kind, "why")
    before = out_of_memory_before({"r", "never tried"}, store)
    assert before == {"r": 3}
    frontier = Frontier(plan, {"r"}, can_grow=shapes_on(gpus(2)).can_grow)
    frontier.repeat_ladder("r", before["r"])
    assert (frontier.growth(run), frontier.divisors) == (2, {"r": 2})


# -- order -----------------------------------------------------------------------------------------------------


def test_measured_seconds_decide_the_order_once_they_are_known():
    heavy, light = replace(run_of(name="heavy"), rung="a", work=9e12), replace(run_of(name="light"), rung="b")
    plan = plan_of(heavy, light)
    frontier = Frontier(plan, set(plan.runs))
    slow = measurement_of(light, {"seconds": 900.0})
    fast = measurement_of(heavy, {"seconds": 1.0})
    assert slow is not None
    assert fast is not None
    learned = Learned([slow, fast])
    frontier.set_cost(lambda run: learned.seconds(run))
    assert [frontier.pop(), frontier.pop(), frontier.pop()] == ["light", "heavy", None]


def test_seconds_of_what_was_never_measured_come_from_the_nearest_kin():
    a, b = replace(run_of(name="a"), rung="a"), replace(run_of(name="b"), rung="b", work=3e12)
    found = measurement_of(a, {"seconds": 10.0})
    assert found is not None
    assert Learned([found]).seconds(b) == pytest.approx(30.0)
    other = replace(b, kind="transfer")
    assert Learned([found]).seconds(other) == pytest.approx(30.0)
    assert Learned().seconds(b) == pytest.approx(3e12 / 2e10)


def test_learning_reads_a_bounded_number_of_finished_runs_of_every_group(tmp_path):
    store = Store(tmp_path)
    runs = [replace(run_of(needs(), name=f"r{i}"), rung=f"rung{i % 3}", seed=i) for i in range(60)]
    for run in runs:
        with store.writing(run.run_id) as attempt:
            attempt.write_json("metrics.json", {"seconds": 2.0, "device": "cpu"})
    with store.writing("nonsense") as attempt:
        attempt.write_json("metrics.json", {"seconds": None})
    learned = learn(plan_of(*runs, run_of(name="nonsense")), {r.run_id for r in runs} | {"nonsense"}, store)
    assert learned.count == 3 * 8
    assert not learned.wants(runs[0])


def test_a_warm_process_that_grows_little_does_not_shrink_the_estimate_of_a_cpu():
    run = run_of(needs())
    metrics = {"seconds": 1.0, "device": "cpu", "peak_memory_bytes": 5e9, "baseline_memory_bytes": 4.9e9}
    found = measurement_of(run, metrics)
    assert found is not None
    assert Learned([found]).memory_factor(run, gpu=False) == 1.0


# -- room ------------------------------------------------------------------------------------------------------

ONE, TWO, NODE = Ask(1, {"CPU": 1.0}), Ask(2, {"CPU": 1.0}), Ask(1, {"CPU": 2.0})


@pytest.mark.parametrize("large", [TWO, NODE], ids=["two devices", "a whole node"])
def test_small_runs_wait_for_a_large_one_until_it_has_begun(large):
    begun = set()
    room = Room(lambda: [{"CPU": 2.0}], lambda run_id: run_id in begun)
    room.start("small", ONE)
    assert room.allows(large)
    room.start("large", large)
    assert not room.allows(ONE)
    room.end("small")
    assert not room.allows(ONE)  # there is room now, and it is the large one's
    begun.add("large")
    assert room.allows(ONE)


def test_nothing_is_held_back_where_the_large_one_fits_in_any_case_or_in_none():
    many = Room(lambda: [{"CPU": 2.0}] * 8)
    few = Room(lambda: [{"CPU": 1.0}])
    for room in (many, few):
        room.start("small", ONE)
        room.start("large", NODE)
        assert room.allows(ONE)
    for index in range(6):
        assert many.allows(ONE)
        many.start(f"s{index}", ONE)
    assert not many.allows(ONE)  # one more might be on the eighth node


def test_a_sign_of_life_from_an_earlier_attempt_does_not_count():
    now, signs = [0.0], {"r": {"old"}}
    started = Started(lambda run_id: set(signs[run_id]), lambda: now[0], every=1.0)
    started.handed_out(run_of())
    assert not started("r")
    signs["r"].add("new")
    assert not started("r")  # asked a moment ago
    now[0] = 1.0
    assert started("r")
    signs["r"].clear()
    assert started("r")  # it had begun; that it has ended since does not change this
    started.handed_out(run_of())
    assert not started("r")


class Machine:
    """Nodes on which runs are put wherever they fit, as Ray does: first come, first served, but passing each other."""

    def __init__(self, nodes: list[int], draw: Any) -> None:
        self.free, self.draw = list(nodes), draw
        self.queue: list[tuple[str, Ask]] = []
        self.on: dict[str, list[tuple[int, int]]] = {}

    def place(self) -> None:
        for run_id, ask in list(self.queue):
            size, taken = int(ask.bundle["CPU"]), []
            for _ in range(ask.units):
                fitting = [i for i, free in enumerate(self.free) if free >= size]
                if not fitting:
                    break
                node = self.draw(st.sampled_from(fitting))
                self.free[node] -= size
                taken.append((node, size))
            if len(taken) < ask.units:
                for node, amount in taken:
                    self.free[node] += amount
                continue
            self.on[run_id] = taken
            self.queue.remove((run_id, ask))

    def end(self, run_id: str) -> None:
        for node, amount in self.on.pop(run_id):
            self.free[node] += amount


@settings(deadline=None)
@given(st.data())
def test_no_run_starves_and_nothing_locks_up_however_ray_places_them(data):
    nodes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    asks = [Ask(1, {"CPU": 1.0}), Ask(1, {"CPU": float(max(nodes))}), Ask(sum(nodes), {"CPU": 1.0})]
    names = [f"r{i}" for i in range(data.draw(st.integers(1, 25)))]
    ask = {name: data.draw(st.sampled_from(asks)) for name in names}
    runs = {n: Run(n, "pretrain", n, 0, (), work=data.draw(st.floats(1, 9)), memory=0) for n in names}
    frontier = Frontier(Plan(runs=runs, pairs=(), requested=0), set(names))
    machine = Machine(nodes, data.draw)
    room = Room(lambda: [{"CPU": float(n)} for n in nodes], lambda run_id: run_id in machine.on)
    ended, later = 0, {}
    while not frontier.finished:
        while (run_id := frontier.pop(lambda run: room.allows(ask[run.run_id]))) is not None:
            room.start(run_id, ask[run_id])
            machine.queue.append((run_id, ask[run_id]))
            later[run_id] = ended
            if len(machine.queue) > 2:  # as many as Tune lets wait
                break
        machine.place()
        assert machine.on, "nothing runs, though something could"
        done = data.draw(st.sampled_from(sorted(machine.on)))
        machine.end(done)
        room.end(done)
        frontier.succeed(done)
        ended += 1
        machine.place()
        for waiting, _ in machine.queue:
            # Those that ran when it came may all end before it, and the few that waited with it; not one more.
            assert ended - later[waiting] <= sum(nodes) + 4
    assert frontier.done == set(names)


def test_units_are_counted_node_by_node():
    assert units_in([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 2.0}) == 2
    assert units_in([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], {"CPU": 1.0, "GPU": 0.25}) == 8
    assert ask_of({"train_slot": 1.0, "devices": 4.0, "use_gpu": 1.0, "threads": 1.0}).units == 4
