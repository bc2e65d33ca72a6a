"""`w2s tune` through the real command line, on real Ray and a real study on disk."""

import json
from pathlib import Path

import polars as pl
import psutil
import pytest

from sweep.cli import main
from sweep.storage.store import Store
from tests.end_to_end.drive import Results, w2s
from tests.end_to_end.test_kill import kill, start, tree, until

pytestmark = pytest.mark.slow
TUNE = """
tune:
  method: confidence
  objective: both
  metric: {oracle: accuracy}
  space:
    method.max_weight: {low: 0.0, high: 1.0}
    finetune.epochs: [1, 2]
  instances: {seeds: [0]}
  fresh: {seeds: [1], pairs: [[d4, d16], [d8, d16]]}
  budget: {trials: 4}
  concurrent: 1
  pruner: none
"""


@pytest.fixture
def tuned_spec(tiny):
    """Writes the tiny sweep file with a `tune:` block, with text replaced."""

    def write(changes: dict[str, str] | None = None) -> Path:
        path = tiny()
        text = TUNE
        for old, new in (changes or {}).items():
            assert old in text, f"{old!r} is not in the block"
            text = text.replace(old, new)
        path.write_text(path.read_text() + text)
        return path

    return write


def summary_of(storage: Path) -> dict:
    found = list(storage.glob("tuning/*/summary.json"))
    assert len(found) == 1
    return json.loads(found[0].read_text())


def trials_of(storage: Path) -> dict[str, list]:
    """What each search tried, without the times."""
    columns = ["number", "state", "value", "n_instances", "params"]
    return {
        study["objective"]: pl.read_parquet(storage / study["folder"] / "trials.parquet")
        .sort("number")
        .select(columns)
        .rows()
        for study in summary_of(storage)["studies"]
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_text):
    """A search that nothing disturbed: spec, storage and what it printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    spec = folder / "tiny.yaml"
    spec.write_text(tiny_text + TUNE)
    storage = folder / "results"
    text = w2s("tune", spec, "--storage", storage, "--export", folder / "best.yaml", cwd=folder)
    return spec, storage, text


def test_the_best_is_compared_with_the_default_on_fresh_instances_and_exported(undisturbed):
    spec, storage, text = undisturbed
    summary = summary_of(storage)
    trials = trials_of(storage)
    assert {name: len(rows) for name, rows in trials.items()} == {"weak": 4, "oracle": 4}
    assert all(row[1:2] + row[3:4] == ("complete", 3) for rows in trials.values() for row in rows)
    for study in summary["studies"]:
        values = {number: value for number, _, value, _, _ in trials[study["objective"]]}
        assert values[study["best"]] == max(values.values())
        assert study["default"] == 0
        assert study["ended"] == "the budget of 4 trials is used up"
    fresh = summary["fresh"]
    manifest = pl.read_parquet(storage / "sweeps" / fresh["sweep"] / "manifest.parquet")
    assert set(manifest["seed"]) == {1}
    assert {fresh["default"], *fresh["tuned"]["weak"].values()} <= set(manifest["method"])
    done = Results(spec, storage).attempts().keys()
    assert set(manifest["student_id"]) | set(manifest["ceiling_id"]) <= done
    assert "report: " in text
    page = next(storage.glob("tuning/*/report/index.html")).read_text()
    assert "tuned (weak)" in page
    plan = w2s("plan", spec.with_name("best.yaml"), "--storage", storage, "--list", cwd=spec.parent)
    assert "tuned (weak)" in text
    searched = {line.split()[0] for line in plan.splitlines() if line.startswith("transfer") and "in the store" in line}
    assert searched  # students of the search, which the exported sweep need not train again


def test_the_same_command_again_runs_nothing_and_more_trials_go_on(undisturbed, tmp_path):
    spec, storage, _ = undisturbed
    before, trials = Results(spec, storage).attempts(), trials_of(storage)
    before_fresh = summary_of(storage)["fresh"]
    text = w2s("tune", spec, "--storage", storage, "--no-report", cwd=tmp_path)
    assert "nothing to run" in text
    assert Results(spec, storage).attempts() == before
    w2s("tune", spec, "--storage", storage, "--trials", 5, "--no-report", cwd=tmp_path)
    after = trials_of(storage)
    fresh, first = summary_of(storage)["fresh"], before_fresh["winners"]
    assert fresh["looked_before"] == ([first] if fresh["winners"] != first else [])
    assert {name: rows[:4] for name, rows in after.items()} == trials
    assert {name: len(rows) for name, rows in after.items()} == {"weak": 5, "oracle": 5}


def test_after_a_kill_the_same_command_goes_on_with_the_same_candidates(undisturbed, tuned_spec, tmp_path):
    spec = tuned_spec()
    results = Results(spec, tmp_path / "results")
    driver = start(spec, results.storage, "tune")
    until(lambda: len(results.attempts()) >= 13, driver)
    family = tree(driver)
    kill([psutil.Process(driver.pid), *family])
    driver.wait()
    kept = results.attempts()
    w2s("tune", spec, "--storage", results.storage, "--no-report", cwd=tmp_path)
    after = results.attempts()
    assert {run_id: after[run_id] for run_id in kept} == kept
    expected = {name: rows[:4] for name, rows in trials_of(undisturbed[1]).items()}
    assert trials_of(results.storage) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"{low: 0.0, high: 1.0}": "{low: 1.0, high: 0.5}"}, "low 1 is above high 0.5"),
        ({"max_weight": "max_wieght"}, "did you mean 'max_weight'"),
        ({"budget: {trials: 4}": "budget: {flops: 10}"}, "tune.budget.flops: 10 is not enough for one candidate"),
        ({"pruner: none": "study_storage: postgresql://nobody@127.0.0.1:1/none"}, "postgresql"),
        ({"pruner: none": "study_storage: nonsense"}, "study_storage"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(tuned_spec, tmp_path, capsys, changes, message):
    assert main(["tune", str(tuned_spec(changes)), "--storage", str(tmp_path / "results")]) == 2
    assert message in capsys.readouterr().err
    assert not Store(tmp_path / "results").run_folders()


def test_a_sweep_without_a_tune_block_says_so(tiny, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", str(tiny())]) == 2
    assert "has no `tune:` block" in capsys.readouterr().err
