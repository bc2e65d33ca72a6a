"""One sweep from start to end, again, extended, in another order, and with a run that fails."""

import contextlib
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.end_to_end.drive import W2S, Results, assert_same_results, environment, w2s

pytestmark = pytest.mark.slow


def copy_of(results: Results, folder: Path) -> Results:
    shutil.copytree(results.storage, folder / "results")
    spec = folder / "tiny.yaml"
    shutil.copy(results.spec, spec)
    return Results(spec, folder / "results")


def test_a_sweep_finishes_and_says_where_its_report_is(undisturbed):
    results, output = undisturbed
    assert "13 of 13 runs done now" in output
    page = Path(output.split("report: ")[1].splitlines()[0])
    assert page.exists()
    text = page.read_text()
    assert "confidence" in text
    assert list((page.parent / "figures").glob("*.png"))
    assert len(results.predictions()) == 10


def test_every_run_writes_what_the_contract_says(undisturbed):
    results, _ = undisturbed
    for run_id, frame in results.predictions().items():
        assert frame.schema == {
            "example_id": pl.String,
            "split": pl.String,
            "step": pl.Int64,
            "gold": pl.Int8,
            "prediction": pl.Int8,
            "correct": pl.Boolean,
            "p": pl.Float32,
        }
        last = frame.filter(pl.col("step") == pl.col("step").max())
        assert dict(last.group_by("split").len().iter_rows()) == {"validation": 100, "transfer/0": 400, "test": 600}
        assert set(frame["step"]) == {10, 20, 26}
        metrics = results.store.read_json(run_id, "metrics.json")
        assert metrics["finetune_flops"] > 0
        assert metrics["pretrain_flops"] > 0
        assert metrics["train_tokens"] == 2 * 400 * 3


def test_the_same_spec_again_trains_nothing_and_leaves_the_same_report(undisturbed, tmp_path):
    results = copy_of(undisturbed[0], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in results.storage.rglob("*") if path.name == "DONE"}
    code = (
        "import sys; from sweep.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'ray', 'matplotlib'} & set(sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "run", str(results.spec), "--storage", str(results.storage)]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "nothing to run: 13 of 13" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in results.storage.rglob("*") if path.name == "DONE"}
    tables = sorted(results.storage.glob("sweeps/*/report/tables/*.csv"))
    assert tables
    for table in tables:
        assert table.read_bytes() == (undisturbed[0].storage / table.relative_to(results.storage)).read_bytes()


def test_one_worker_instead_of_two_gives_the_same_bits(undisturbed, tmp_path, tiny):
    spec = tiny({"seeds: [0]": "seeds: [0]\ncompute: {max_parallel: 1}"})
    w2s("run", spec, "--no-report", cwd=tmp_path)
    alone = Results(spec, tmp_path / "results" / "tiny")
    assert_same_results(undisturbed[0], alone)
    pages = []
    for results, out in ((undisturbed[0], "two"), (alone, "one")):
        w2s("export", results.storage, tmp_path / f"{out}.csv", cwd=tmp_path)
        pages.append((tmp_path / f"{out}.csv").read_text())
    assert pages[0] == pages[1]


def test_one_more_seed_and_rung_run_only_what_is_new(undisturbed, tmp_path, tiny):
    results = copy_of(undisturbed[0], tmp_path)
    before = results.attempts()
    rung = "    - {name: d16,"
    spec = tiny({rung: "    - {name: d12, hidden_size: 12, layers: 1, heads: 2, tokens: 20_000}\n" + rung})
    output = w2s("run", spec, "--storage", results.storage, cwd=tmp_path)
    assert "13 were in" in output
    after = results.attempts()
    assert {run_id: after[run_id] for run_id in before} == before
    assert len(after) == 13 + 1 + 2 + 3 * 2


def test_on_a_terminal_a_live_table_is_drawn(tmp_path, tiny):
    controller, terminal = pty.openpty()
    command = [W2S, "run", str(tiny()), "--only", "pretrain"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=terminal, stderr=terminal, env=environment())
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other end closes with the process
        while block := os.read(controller, 4096):
            shown += block
    os.close(controller)
    text = shown.decode(errors="replace")
    assert process.wait() == 0, text
    assert "of FLOPs" in text
    assert "\x1b[" in text  # drawn in place
    assert "3 of 3 runs done now" in text


def test_a_failing_run_is_retried_reported_and_blocks_only_its_descendants(undisturbed, tmp_path, tiny):
    results = copy_of(undisturbed[0], tmp_path)
    # d8 diverges: as supervisor it blocks d8 -> d16; as ceiling and student it fails itself
    spec = tiny({"{name: d8,": "{name: d8, finetune: {learning_rate: 3e38},"})
    output = w2s("run", spec, "--storage", results.storage, check=1, cwd=tmp_path)
    assert "trying again" in output
    assert "a learning rate too high" in output
    assert "blocked by these: 2 runs" in output
    failed = [line.split()[2] for line in output.splitlines() if line.startswith("  w2s show")]
    assert len(failed) == 4  # on ground truth of both halves, and two students
    assert "error" in w2s("show", failed[0], "--storage", results.storage, cwd=tmp_path).lower()
    status = w2s("status", spec, "--storage", results.storage, check=1, cwd=tmp_path)
    assert status.count("given up:") == 4
    again = w2s("run", spec, "--storage", results.storage, check=1, cwd=tmp_path)
    assert "nothing to run" in again
    assert "--retry-failed" in again


def test_a_damaged_entry_is_named_and_made_again_with_the_same_content(undisturbed, tmp_path):
    results = copy_of(undisturbed[0], tmp_path)
    run_id, frame = next(iter(results.predictions().items()))
    done = results.store.done(run_id)
    assert done
    file = Path(results.store.path("runs", run_id, "attempts", done.attempt, "predictions.parquet"))
    file.write_bytes(b"x" + file.read_bytes()[1:])
    output = w2s("run", results.spec, "--storage", results.storage, cwd=tmp_path)
    assert f"{file}: does not match its checksum; running it again" in output
    assert "1 of 1 runs done now" in output
    assert results.predictions()[run_id].equals(frame)
