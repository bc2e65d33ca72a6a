"""The command line without Ray: answers, refusals and exit codes."""

import csv
import subprocess
import sys

import pytest

from sweep.cli import main


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
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.chdir(tmp_path)
    config = LlamaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    rung = "- {name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 40_000}"
    assert "pretrain_tokens" in refused(capsys, "plan", str(tiny({rung: "- ./model"})))


def test_a_storage_that_is_a_file_is_refused(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert "not writable" in refused(capsys, "run", str(tiny()), "--storage", str(tmp_path / "file"))


@pytest.mark.parametrize("command", ["tasks", "methods", "models"])
def test_lists_are_printed(command, capsys):
    assert main([command]) == 0
    assert {"tasks": "facts", "methods": "confidence", "models": "pythia"}[command] in capsys.readouterr().out


def test_planning_imports_neither_torch_nor_ray(tiny, tmp_path):
    code = (
        "import sys; from sweep.cli import main; main(['plan', sys.argv[1]]); "
        "assert not {'torch', 'ray', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny())], cwd=tmp_path, check=True, capture_output=True)
