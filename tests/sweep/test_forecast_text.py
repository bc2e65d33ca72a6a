"""`w2s plan --nodes --gpu`: what a person reads; and the promise of the schedule on every example."""

import re
from pathlib import Path

import pytest

import sweep.session
from benchmarks.example_plans import plan_without_inputs, stand_in_inputs
from sweep.cli import main
from sweep.forecast.forecaster import forecaster
from sweep.forecast.prices import GPUS
from sweep.forecast.simulate import Machines
from sweep.plan_command import NOMINAL_GPU_FLOPS, _time
from sweep.printing import about, duration

EXAMPLES = Path(__file__).parents[2] / "examples"
ALL = sorted([*EXAMPLES.glob("*.yaml"), *(EXAMPLES / "studies").glob("*.yaml")])
NEAR = 1.10


@pytest.mark.parametrize("devices", [8, 64, 512])
@pytest.mark.parametrize("gpu", ["a100-80", None])
@pytest.mark.parametrize("file", ALL, ids=lambda file: file.stem)
def test_the_examples_take_at_most_a_tenth_longer_than_any_schedule_must(file, gpu, devices):
    """Against max(critical path, work / devices), or where that is out of reach, against the tighter bound."""
    spec, plan = plan_without_inputs(file)
    node = Machines(1, 8, 96.0) if gpu else Machines(1, 0, 8.0)
    forecast = forecaster(plan, plan.runs, spec.compute, gpu=GPUS[gpu] if gpu else None, node=node).on(devices // 8)
    for schedule in (forecast.fast, forecast.slow):
        assert schedule.makespan <= NEAR * schedule.bounds.best
        if devices >= 64:
            assert schedule.makespan <= NEAR * schedule.bounds.classic


@pytest.fixture
def stand_ins(monkeypatch, tmp_path):
    """The hub's data and models replaced by their public sizes: there is no network, and only sizes matter here."""
    monkeypatch.setattr(sweep.session, "gather", lambda spec, **_: stand_in_inputs(spec))
    monkeypatch.chdir(tmp_path)


def told(capsys, *words: str) -> str:
    """What a plan of an example prints, its last part; runs of blanks as one."""
    assert main(["plan", *words]) == 0
    return re.sub(r" +", " ", capsys.readouterr().out.split("\n\n", 1)[-1])


def test_a_forecast_names_time_hours_price_bound_and_what_is_assumed(stand_ins, capsys):
    text = told(capsys, str(EXAMPLES / "pythia.yaml"), "--nodes", "4", "--gpu", "a100-80", "--price", "2")
    assert "on 4 x 8 a100-80 (32 GPUs), if nothing fails:" in text
    assert re.search(r"wall time [\d hmins]+ to [\d hmins]+\n", text)
    assert re.search(r"GPU-hours [\d.,]+ to [\d.,]+ rented, [\d.,]+ to [\d.,]+ in use \(9", text)
    assert "at $2.00 to $2.00 per GPU-hour" in text
    assert "bound by the total work (9" in text
    assert "measured: nothing, as no run of this plan is finished on a100-80" in text
    assert "assumed: 30 to 45% of 312 TFLOP/s" in text
    assert "prices: approximate" not in text  # it was given
    assert re.search(r"\n 1 8 .*\n 2 16 .*\n 4 32 .*\n 8 64 .*\n 16 128 ", text)
    assert "8 nodes are enough: 16 would save less than 20% of the time" in text


def test_many_nodes_are_bound_by_a_chain_that_is_named(stand_ins, capsys):
    text = told(capsys, str(EXAMPLES / "pythia.yaml"), "--nodes", "64", "--gpu", "A100-80", "--mfu", "0.5")
    assert "however many nodes there are" in text
    first, second = re.findall(r"\d+ s (boolq: .*)", text)
    assert "pythia-1.4b on ground truth of supervise" in first
    assert "pythia-1.4b -> pythia-2.8b" in second
    assert "50% of 312 TFLOP/s" in text
    assert "prices: approximate public list prices, 2026-06" in text


def test_a_model_too_large_for_the_gpu_says_how_many_it_needs_or_which_would_do(stand_ins, tmp_path, capsys):
    spec = tmp_path / "pythia.yaml"
    text, compute = (EXAMPLES / "pythia.yaml").read_text().split("compute:")
    spec.write_text(f"{text}compute: {{memory_gb: 70, gpu_memory_gb: 80, devices_per_run: 1}}\n")
    assert "memory_gb: 70" in compute
    text = told(capsys, str(spec), "--gpu", "a10g-24")
    found = re.search(r"memory pythia-2.8b needs [\d.]+ GB: (\d) a10g-24 for one run; one a100-\d0 would do", text)
    assert found
    assert f"compute.devices_per_run: {found[1]} in the spec asks for so many" in text
    assert "runs share GPUs of 24 GB here; the spec's compute.gpu_memory_gb is 80" in text


def test_a_run_larger_than_the_machines_asked_about_gets_more_of_them(stand_ins, capsys):
    text = told(capsys, str(EXAMPLES / "pythia.yaml"), "--gpu", "a10g-24", "--gpus-per-node", "1")
    (nodes,) = re.findall(r"1 x 1 GPUs cannot hold the largest run; here is what (\d) nodes would do", text)
    assert f"on {nodes} x 1 a10g-24 ({nodes} GPUs)" in text


HUGE = "{name: huge, hidden_size: 8192, layers: 80, heads: 64, tokens: 1_000_000}"


@pytest.mark.parametrize("gpu", ["a100-80", "l4-24"])
def test_a_rung_that_no_gpu_can_pretrain_has_no_price(tiny, tmp_path, capsys, monkeypatch, gpu):
    """Only finetuning is cut over several devices; the engine would refuse this on any number of them."""
    monkeypatch.chdir(tmp_path)
    spec = tiny({"{name: d16, hidden_size: 16, layers: 1, heads: 2, tokens: 40_000}": HUGE})
    assert main(["plan", str(spec), "--nodes", "8", "--gpu", gpu]) == 2
    said = capsys.readouterr()
    assert "wall time" not in said.out
    assert re.match(r".*pretrain huge seed 0: needs about \d\.\d TB on one GPU; the largest here has \d\d GB", said.err)
    assert "runs of kind pretrain are not cut over several" in said.err


def test_what_several_gpus_of_one_run_are_assumed_to_reach_is_said(stand_ins, tmp_path, capsys):
    words = (str(EXAMPLES / "pythia.yaml"), "--gpu", "a10g-24")
    assert "k GPUs of one run are k times as fast, times 0.7 to 0.9; no other" in re.sub(
        r"\s+", " ", told(capsys, *words)
    )
    apart = re.sub(r"\s+", " ", told(capsys, *words, "--gpus-per-node", "1"))
    assert "times 0.7 to 0.9, a10g-24s of several machines among them; no other term stands for traffic" in apart
    assert "k times as fast" not in told(capsys, str(EXAMPLES / "pythia.yaml"), "--gpu", "a100-80")


def test_nodes_without_gpus_are_forecast_by_cpus(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = told(capsys, str(tiny()), "--nodes", "2", "--cpus-per-node", "4", "--price", "0.1-0.4")
    assert "on 2 x 4 CPUs, if nothing fails:" in text
    assert "CPU-hours" in text
    assert "per node-hour" in text
    assert "memory " not in text
    assert "assumed: 10 to 30 GFLOP/s on a CPU core" in text


def test_figures_read_as_people_write_them(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _time(1444 * 3600 * NOMINAL_GPU_FLOPS).startswith("1,444 GPU-hours")
    assert _time(1.44 * 3600 * NOMINAL_GPU_FLOPS).startswith("1.44 GPU-hours")
    assert [duration(3600 * hours) for hours in (99, 566.7)] == ["99 h 00 min", "23 d 14 h"]
    assert [about(seconds) for seconds in (40, 141, 3600)] == ["40 s", "2 min", "1 h 00 min"]
    text = told(capsys, str(tiny()), "--gpu", "l4", "--price", "0.0001-2")
    assert "$0.00" not in re.sub(r"at \$.*", "", text)
    assert re.search(r"price under \$0.01 to \$\d", text)


def test_a_default_that_makes_it_slow_is_called_one(stand_ins, tmp_path, capsys):
    spec = tmp_path / "pythia.yaml"
    text, _ = (EXAMPLES / "pythia.yaml").read_text().split("compute:")
    spec.write_text(text)
    assert "compute.memory_gb: 2 (the default) cuts batches of" in told(capsys, str(spec), "--gpu", "a100-80")
    spec.write_text(f"{text}compute: {{memory_gb: 2}}\n")
    assert "compute.memory_gb: 2 cuts batches of" in told(capsys, str(spec), "--gpu", "a100-80")


def test_without_a_cluster_the_plan_is_as_short_as_ever(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(tiny())]) == 0
    assert "wall time" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "a100-81"], "--gpu a100-81: no GPU of that name is known; did you mean 'a100-80'"),
        (["--gpu", "a100"], "--gpu a100: which one, a100-40 or a100-80"),
        (["--price", "1-2"], "--price needs --nodes or --gpu"),
        (["--nodes", "2", "--mfu", "0.3"], "--mfu needs --gpu"),
        (["--nodes", "0"], "argument --nodes: a whole number above 0 is needed, not '0'"),
        (["--gpu", "a100-80", "--price", "4-2"], "such as 1.2-3.5, not '4-2'"),
        (["--gpu", "a100-80", "--price", "cheap"], "such as 1.2-3.5, not 'cheap'"),
        (["--gpu", "a100-80", "--mfu", "40"], "a share of the peak is at most 1, as in 0.3-0.45, not '40'"),
    ],
)
def test_a_wrong_question_is_refused_before_anything_is_read(capsys, words, message):
    try:
        code = main(["plan", "nowhere.yaml", *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err
