"""The command line without Ray: answers, refusals and exit codes."""

import csv
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sweep.cli import main
from sweep.execution.engine import Outcome
from sweep.session import Session
from sweep.storage.manifest import write_manifest
from sweep.storage.records import Heartbeat


def refused(capsys, *words: str) -> str:
    """The message of a command that must end with exit code 2 and say why in a line or two, without a traceback."""
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    assert code == 2, out
    assert "Traceback" not in out.err
    assert out.err.strip()
    return out.err


def test_plan_counts_runs_and_names_a_reason_for_each(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(tiny())]) == 0
    assert "the plan has 10" in capsys.readouterr().out
    assert main(["plan", str(tiny()), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert sum("after pretrain" in line for line in lines) == 4 + 6
    assert sum("not in the store" in line for line in lines) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plna", "x.yaml"], "no command 'plna'; did you mean 'plan'?"),
        (["run"], "arguments are required: SPEC"),
        (["run", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["report", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["report", "nowhere"], "holds no results"),
        (["export", "nowhere", "x.csv"], "holds no results"),
        (["show", "transfer-123"], "no run 'transfer-123'"),
        (["models", "./nowhere"], "nowhere"),
    ],
)
def test_wrong_usage_is_refused(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *words)


def rows(path, lines) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path.name


GOOD = [("text", "label"), *((f"sentence number {i}", i % 2) for i in range(60))]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "data.csv"),
        ([], "empty"),
        ([("text", "label")], "data.csv"),
        ([(text, "label" if label == "label" else 1) for text, label in GOOD], "class"),
        ([*GOOD, ("a third", 2)], "2"),
        ([("sentence", "label"), *GOOD[1:]], "sentence"),
    ],
    ids=["missing file", "empty file", "no rows", "one class", "three labels", "wrong column"],
)
def test_unusable_data_is_refused_before_anything_starts(tiny, tmp_path, capsys, monkeypatch, lines, message):
    monkeypatch.chdir(tmp_path)
    if lines is not None:
        rows(tmp_path / "data.csv", lines)
    (tmp_path / "corpus.txt").write_text("a line of text\n" * 50)
    task = "source: files\n    train: [data.csv]\n    columns: {text: text, label: label}"
    corpus = "seed: per_seed\n  pretrain: {corpus: {kind: text, files: [corpus.txt]}}"
    spec = tiny(
        {
            "seed: per_seed": corpus,
            "source: facts": task,
            "supervise: 400, transfer: 400, validation: 100, test: 600": "supervise: 0.4",
        }
    )
    text = refused(capsys, "run", str(spec))
    assert "tasks[0] 'facts'" in text
    assert message in text
    assert not (tmp_path / "results" / "tiny" / "runs").exists()


def test_a_model_folder_without_config_is_refused(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    rung = "- {name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 40_000}"
    text = refused(capsys, "plan", str(tiny({rung: "- {model: ./model, pretrain_tokens: 1e9}"})))
    assert "ladder.rungs[1] 'model'" in text
    assert "config.json" in text


def test_a_checkpoint_of_unknown_compute_asks_for_it(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "model")
    text = refused(capsys, "plan", str(tiny({D8: "- ./model"})))
    assert "tiny.yaml:7: ladder.rungs[1] 'model': how much compute" in text
    assert "pretrain_tokens: 3.0e+11}" in text


@pytest.mark.parametrize("command", ["plan", "run", "status"])
def test_a_storage_that_is_a_file_is_refused(tiny, tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert "not writable" in refused(capsys, command, str(tiny()), "--storage", str(tmp_path / "file"))


def test_a_storage_of_an_unknown_kind_is_refused_with_those_that_there_are(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "plan", str(tiny()), "--storage", "s4://bucket/x")
    assert "storage 's4://bucket/x': nothing is known of s4://; write s3://bucket/folder, gs://bucket/folder" in told


def test_plan_writes_nothing_but_what_it_computed_and_says_so(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = tiny()
    assert main(["plan", str(spec)]) == 0
    assert [path.name for path in (tmp_path / "results" / "tiny").iterdir()] == ["cache"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "writes nothing but what it computed of data and models" in " ".join(capsys.readouterr().out.split())


def test_a_report_of_an_unfinished_sweep_says_what_is_missing(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweep.commands._report", lambda *args, **kwargs: "index.html")  # the page tells it as well
    spec = str(tiny())
    session = Session.open(spec)
    write_manifest(session.store, session.spec, session.plan, session.text)
    *most, last = session.plan.runs
    for run_id in most:
        with session.store.writing(run_id) as attempt:
            attempt.write_json("metrics.json", {})
            if session.plan.runs[run_id].keep_weights:
                (attempt.folder / "weights").mkdir()
                (attempt.folder / "weights" / "w").write_text("")
    assert main(["report", spec]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "report: index.html"
    assert said[1].startswith(f"1 run of 13 is missing in it (1 to run): w2s status {spec} names")
    with session.store.writing(last) as attempt:
        attempt.write_json("metrics.json", {})
    assert main(["report", spec]) == 0
    assert capsys.readouterr().out.splitlines() == ["report: index.html"]


def test_one_pair_is_one_pair(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    third = "    - {name: d16, hidden_size: 16, layers: 1, heads: 2, tokens: 40_000}\n"
    assert main(["plan", str(tiny({third: "", "[naive, confidence]": "[naive]"}))]) == 0
    assert ": 1 pair (weak, strong, method, seed) -> results/tiny" in capsys.readouterr().out


def test_plan_warns_of_a_storage_that_may_not_be_written(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sweep.storage.store.os.access", lambda *_: False
    )  # tests may run as root, who may write anywhere
    assert main(["plan", str(tiny())]) == 0
    assert "storage 'results/tiny' is not writable for this user" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["tasks", "methods", "models"])
def test_lists_are_printed(command, capsys):
    assert main([command]) == 0
    assert {"tasks": "facts", "methods": "confidence", "models": "pythia"}[command] in capsys.readouterr().out


def test_a_method_is_shown_with_its_parameters_their_defaults_and_meaning(capsys):
    assert main(["methods", "confidence", "bootstrap"]) == 0
    out = capsys.readouterr().out
    assert "max_weight: 0.5  Weight of the student's own predictions" in out
    assert 'student: "naive"  How the student learns' in out
    assert "did you mean 'confidence'" in refused(capsys, "methods", "confidense")


def test_of_several_checkpoints_the_good_ones_are_shown_and_the_bad_ones_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "good")
    (tmp_path / "weights").write_text("")
    assert main(["models", "./bad", "weights", "./good"]) == 2
    out = capsys.readouterr()
    assert "./good" in out.out
    assert out.err.splitlines()[0] == "model ./bad: no such folder"
    assert "weights: is a file; name the folder" in out.err
    assert "hf download" not in out.err


MLP = {"gate": (16, 8), "up": (16, 8), "down": (8, 16)}


def checkpoint(folder, *, tokenizer=True):
    """A tiny Llama with an output head of its own, as files alone."""
    folder.mkdir(parents=True)
    attention = {f"model.layers.0.self_attn.{part}_proj.weight": (8, 8) for part in "qkvo"}
    mlp = {f"model.layers.0.mlp.{part}_proj.weight": shape for part, shape in MLP.items()}
    norms = {f"model.{norm}.weight": (8,) for norm in ("norm", "layers.0.input_layernorm", "layers.0.post_attention")}
    shapes = {"model.embed_tokens.weight": (64, 8), "lm_head.weight": (64, 8), **attention, **mlp, **norms}
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, folder / "model.safetensors")
    config = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"vocab_size": 64, "tie_word_embeddings": False, "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
    return folder


D8 = "- {name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 40_000}"


def test_a_checkpoint_without_tokenizer_is_refused_by_plan(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "model", tokenizer=False)
    text = refused(capsys, "plan", str(tiny({D8: "- {model: ./model, pretrain_tokens: 1e9}"})))
    assert "tiny.yaml:7: ladder.rungs[1] 'model': model " in text
    assert "no tokenizer in the folder" in text


def test_rungs_out_of_order_are_refused_with_their_line(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    smaller = D8.replace("hidden_size: 8, layers: 1, heads: 2", "hidden_size: 2, layers: 1, heads: 1")
    assert "tiny.yaml:7: ladder.rungs: 'd8' (" in refused(capsys, "plan", str(tiny({D8: smaller})))


def test_an_empty_corpus_is_refused_by_plan(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("")
    rows(tmp_path / "data.csv", GOOD)
    changes = {
        "seed: per_seed": "pretrain: {corpus: {kind: text, files: [corpus.txt]}}",
        "source: facts": "source: files\n    train: [data.csv]",
        "supervise: 400, transfer: 400, validation: 100, test: 600": "supervise: 0.4",
    }
    text = refused(capsys, "plan", str(tiny(changes)))
    assert "tiny.yaml:4: ladder.pretrain.corpus: " in text
    assert "corpus.txt: the file has no rows" in text


def test_plan_says_what_the_parts_hold_and_what_was_left_out(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("a line of text\n" * 50)
    rows(tmp_path / "data.csv", [*GOOD, GOOD[1], ("nothing known", "")])
    changes = {
        "seed: per_seed": "pretrain: {corpus: {kind: text, files: [corpus.txt]}}",
        "source: facts": "source: files\n    train: [data.csv]",
        "supervise: 400, transfer: 400, validation: 100, test: 600": "supervise: 20",
    }
    assert main(["plan", str(tiny(changes))]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("task facts: "))
    assert "supervise 20, test 9, transfer/0 24, validation 3" in line
    assert "rows left out: 1 without a label, 1 duplicates, 4 beyond the sizes asked for" in line


def test_plan_of_one_rung_says_that_there_are_no_pairs(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    d16 = "    - {name: d16, hidden_size: 16, layers: 1, heads: 2, tokens: 40_000}\n"
    assert main(["plan", str(tiny({f"    {D8}\n": "", d16: ""}))]) == 0
    assert "no pairs: the ladder has one rung" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["ground truth", "ground_truth", "ground-truth"])
def test_only_takes_a_kind_as_it_is_printed(tiny, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    session = Session.open(str(tiny()))
    assert {session.plan.runs[i].kind for i in session.select([kind])} == {"ground_truth"}


def test_only_lists_the_kinds_when_it_knows_no_such_one(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = refused(capsys, "run", str(tiny()), "--only", "supervisors")
    assert "its kinds are pretrain, ground_truth, transfer" in text
    assert "did you mean 'transfer'" in refused(capsys, "run", str(tiny()), "--only", "tranfer")


def finish(session, run_id, **metrics) -> None:
    """Put a run into the store without running it."""
    with session.store.writing(run_id) as attempt:
        attempt.write_json("run.json", {})
        attempt.write_json("metrics.json", metrics)
        (attempt.folder / "predictions.parquet").write_bytes(b"p" * 50)
        (attempt.folder / "log.txt").write_text("all went well")
        (attempt.folder / "weights").mkdir()
        (attempt.folder / "weights" / "w").write_text("w")


def test_a_damaged_run_is_named_by_plan_status_and_show(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = Session.open(str(tiny()))
    run_id = next(iter(session.select(["transfer"])))
    finish(session, run_id)
    assert main(["show", run_id]) == 0
    assert f"{run_id} done" in capsys.readouterr().out
    next((tmp_path / "results" / "tiny" / "runs" / run_id).glob("attempts/*/predictions.parquet")).write_bytes(b"p")
    for command in ("plan", "status"):
        assert main([command, str(tiny())]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "damaged: " in line)
        assert run_id in line
        assert "predictions.parquet: has 1 bytes, 50 were written" in line
    assert main(["show", run_id]) == 1
    out = capsys.readouterr()
    assert f"{run_id} damaged" in out.out
    assert "all went well" in out.out
    assert "predictions.parquet: has 1 bytes" in out.err


def test_show_says_which_of_two_storages_it_shows(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for storage in ("results/one", "results/two"):
        session = Session.open(str(tiny()), storage)
        run_id = sorted(session.select(["transfer"]))[0]
        if storage == "results/two":
            finish(session, run_id)
        else:
            session.store.record_failure(run_id, "Error", "why")
    assert main(["show", run_id]) == 0
    out = capsys.readouterr().out
    assert "is in 2 storages: this is the one in results/two; --storage shows that in results/one" in out
    finish(session, sorted(session.select(["transfer"]))[1])
    text = refused(capsys, "show", "transfer-")
    assert text.count(run_id) == 1


def test_run_says_how_many_texts_were_cut(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = Session.open(str(tiny()))
    for run_id, run in session.plan.runs.items():
        finish(session, run_id, truncated=None if run.kind == "pretrain" else 7)
    assert main(["run", str(tiny()), "--no-report"]) == 0
    out = capsys.readouterr().out
    assert "nothing to run: 13 of 13 runs" in out
    assert "task facts: up to 7 texts cut at 8 tokens (finetune.max_length, or a model's limit)\n" in out


def test_run_says_how_pairs_were_cut(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tiny({"source: facts": "source: facts\n    form: compare", "{supervise: 400": "{supervise: 200"})
    session = Session.open(str(file))
    for run_id, run in session.plan.runs.items():
        finish(session, run_id, truncated=None if run.kind == "pretrain" else 7)
    assert main(["run", str(file), "--no-report"]) == 0
    out = capsys.readouterr().out
    assert "task facts: up to 7 pairs cut at 8 tokens" in out
    assert "of the prompt as much for one reply as for the other\n" in out


def test_a_report_that_cannot_be_written_is_told_and_hides_no_failure(tiny, tmp_path, capsys, monkeypatch):
    """Every run is marked done here without results, so the report's folder is a file: that cannot be written."""
    monkeypatch.chdir(tmp_path)
    session = Session.open(str(tiny()))
    for run_id in session.plan.runs:
        finish(session, run_id)
    report = Path(session.store.path("sweeps", session.sweep_id, "report"))
    report.parent.mkdir(parents=True)
    report.write_text("a file in the way")
    assert main(["run", str(tiny())]) == 1
    err = capsys.readouterr().err
    assert f"{report} is a file" in err
    assert "tries again" in err


def test_run_warns_when_another_one_is_at_work(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweep.execution.engine.run_plan", lambda *_, **__: Outcome(frozenset(), {}, frozenset(), True))
    session = Session.open(str(tiny()))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    beats = [("elsewhere", 1), (socket.gethostname(), gone.pid), (socket.gethostname(), os.getpid())]
    for run_id, (host, pid) in zip(session.plan.runs, beats, strict=False):
        session.store.beat(run_id, Heartbeat("a", host, pid, time.time(), 0.5))
    assert main(["run", str(tiny()), "--no-report"]) == 130
    err = capsys.readouterr().err
    assert "another w2s run is at work here (2 runs alive on " in err
    assert "elsewhere" in err


def test_ladder_shows_the_sizes_of_checkpoints_too_and_never_breaks_a_path(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = checkpoint(tmp_path / ("a-long-name-" * 8) / "model")
    d4 = "- {name: d4, hidden_size: 4, layers: 1, heads: 2, tokens: 20_000}"
    d16 = "- {name: d16, hidden_size: 16, layers: 1, heads: 2, tokens: 40_000}"
    spec = tiny({f"    {d4}\n    {D8}\n    {d16}\n": f"    - {{model: {folder}, pretrain_tokens: 1e9}}\n"})
    assert main(["ladder", str(spec)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("model "))
    # embeddings 64 x 8 and a head of as many; 4 x 64 for attention, 3 x 8 x 16 for the MLP; norms 3 x 8
    assert line.split() == ["model", "·", "1,688", "1,152", "6.91e+12", str(folder)]


def test_planning_imports_neither_torch_nor_ray(tiny, tmp_path):
    code = (
        "import sys; from sweep.cli import main; main(['plan', sys.argv[1]]); "
        "assert not {'torch', 'ray', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny())], cwd=tmp_path, check=True, capture_output=True)
