"""`w2s tasks`: lists, checks, templates; and how a sweep file names tasks of the catalogue."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "w2s"))  # for catalogue_rows and stand_ins

from catalogue_rows import make_rows

from sweep.cli import main
from sweep.errors import SpecError
from sweep.lockfile import RevisionLock
from sweep.spec import load_spec
from sweep.tasks_command import markdown_table
from tests.w2s.stand_ins import make_checkpoint
from w2s.config import CatalogueTask, FactsTask, PythonTask
from w2s.tasks.catalogue import datasets

DOC = Path(__file__).parents[2] / "docs" / "tasks.md"

SWEEP = """\
name: t
ladder: {rungs: [{model: org/a, pretrain_tokens: 1e9}, {model: org/b, pretrain_tokens: 1e9}]}
tasks:
"""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("W2S_MIRROR", raising=False)


@pytest.fixture
def mirror(tmp_path):
    for key, splits in {
        "boolq": ("train", "validation"),
        "sciq": ("train", "test"),
        "anthropic_hh": ("train", "test"),
    }.items():
        (tmp_path / "mirror" / key).mkdir(parents=True)
        for seed, split in enumerate(splits):
            text = "".join(json.dumps(row) + "\n" for row in make_rows(key, 120 if seed == 0 else 40, seed=seed))
            (tmp_path / "mirror" / key / f"{split}.jsonl").write_text(text)
    return tmp_path / "mirror"


def spec(tmp_path, *tasks):
    path = tmp_path / "s.yaml"
    path.write_text(SWEEP + "".join(f"  - {task}\n" for task in tasks))
    return path


def refused(capsys, *words):
    assert main(list(words)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


# -- naming tasks in a sweep file ------------------------------------------------------------------------------


def test_a_task_is_a_name_or_a_dataset_with_settings(tmp_path):
    tasks = load_spec(
        spec(
            tmp_path, "boolq", "{name: s, dataset: sciq-with-support, choices: sample}", "{dataset: hellaswag}", "facts"
        )
    ).tasks
    assert [task.name for task in tasks] == ["boolq", "s", "hellaswag", "facts"]
    assert [type(task) for task in tasks] == [CatalogueTask] * 3 + [FactsTask]
    assert tasks[1].dataset == "sciq_with_support"  # type: ignore[union-attr]
    assert (tasks[0].balance, tasks[0].choices) == ("paper", "expand")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("bolq", r"s.yaml:4: tasks\[0\]: there is no task 'bolq'; did you mean 'boolq'\? \(w2s tasks lists them\)"),
        ("{dataset: cosmosqa}", r"tasks\[0\].dataset: there is no dataset 'cosmosqa'; did you mean \"cosmos_qa\""),
        ("{dataset: boolq, chioces: sample}", r"tasks\[0\].chioces: unknown key; did you mean 'choices'\?"),
        (
            "{name: t, source: files, train: [a.csv], choices: sample}",
            r"s.yaml:4: tasks\[0\].choices: only for source catalogue or python",
        ),
        (
            "{name: t, source: python, object: 'a.py:f', form: generate}",
            r"tasks\[0\].form: rows of a function .* for generate let the function write a file",
        ),
        ("{dataset: boolq, choices: both}", r"tasks\[0\].choices: must be 'expand' or 'sample', got 'both'"),
        ("{dataset: boolq, balance: yes}", r"tasks\[0\].balance: must be 'paper', 'always' or 'never', got True"),
        (
            "{dataset: anthropic_hh, form: classify}",
            r"tasks\[0\]: form is 'classify', but dataset 'anthropic_hh' is of form",
        ),
    ],
)
def test_a_task_that_is_none_is_refused_with_its_line(tmp_path, task, message):
    with pytest.raises(SpecError, match=message):
        load_spec(spec(tmp_path, task))


def test_one_dataset_may_be_two_tasks_under_two_names(tmp_path):
    tasks = load_spec(spec(tmp_path, "sciq", "{name: sampled, dataset: sciq, choices: sample}")).tasks
    assert [task.name for task in tasks] == ["sciq", "sampled"]
    with pytest.raises(SpecError, match="task 'sciq' is given twice"):
        load_spec(spec(tmp_path, "sciq", "{dataset: sciq, choices: sample}"))


def test_a_mirror_and_a_module_beside_the_sweep_file_are_found_from_anywhere(tmp_path):
    (tmp_path / "own.py").write_text("def f(): ...")
    tasks = load_spec(
        spec(
            tmp_path,
            "{dataset: boolq, mirror: mirrors}",
            "{name: a, source: python, object: 'own:f', files: [x.csv]}",
            "{name: b, source: python, object: 'own.py:f'}",
            "{name: c, source: python, object: 'json:loads'}",
        )
    ).tasks
    assert isinstance(tasks[0], CatalogueTask)
    assert tasks[0].mirror == str(tmp_path / "mirrors")
    assert all(isinstance(task, PythonTask) for task in tasks[1:])
    objects = [task.object for task in tasks[1:]]  # type: ignore[union-attr]
    assert objects == [f"{tmp_path}/own.py:f", f"{tmp_path}/own.py:f", "json:loads"]
    assert tasks[1].files == (str(tmp_path / "x.csv"),)  # type: ignore[union-attr]


def test_a_sweep_over_mirrored_tasks_is_planned_and_a_hub_commit_is_locked(tmp_path, mirror, monkeypatch, capsys):
    for seed, name in enumerate(("a", "b")):
        make_checkpoint(tmp_path / name, seed=seed, width=16 * (seed + 1))
    path = spec(tmp_path, "{dataset: boolq, mirror: mirror}", "{dataset: sciq, mirror: mirror}")
    path.write_text(path.read_text().replace("org/a", "./a").replace("org/b", "./b"))
    assert main(["plan", str(path), "--storage", str(tmp_path / "results")]) == 0
    out = capsys.readouterr().out
    assert "task boolq: supervise" in out
    assert "task sciq: supervise" in out
    commit = "0123456789" * 4
    monkeypatch.setattr("sweep.lockfile.resolve_revision", lambda *_, **__: commit)
    lock = RevisionLock.beside(path)
    from w2s.tasks import resolve_task

    placed = resolve_task(CatalogueTask(dataset="piqa", id="ybisk/piqa"), lock.dataset)
    lock.save()
    assert placed.revision == commit  # type: ignore[union-attr]
    assert json.loads(path.with_suffix(".lock.json").read_text()) == {"dataset ybisk/piqa@refs/convert/parquet": commit}


# -- list ------------------------------------------------------------------------------------------------------


def test_the_list_has_every_source_and_dataset_with_form_size_and_place(capsys):
    assert main(["tasks"]) == 0
    out = capsys.readouterr().out
    for entry in datasets().values():
        line = next(line for line in out.splitlines() if line.split()[:1] == [entry.key])
        assert entry.form in line
        assert entry.group in line
        assert not entry.places or entry.places[0].id in line
    assert "9,427 / 3,270" in out
    assert all(source in out for source in ("facts", "files", "hub", "catalogue", "python"))


def test_the_documented_table_is_the_one_that_is_printed(capsys):
    assert main(["tasks", "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert printed == markdown_table(datasets().values())
    assert printed in DOC.read_text(), "docs/tasks.md: replace its table by what `w2s tasks --markdown` prints"


# -- check -----------------------------------------------------------------------------------------------------


def test_a_dataset_is_checked(mirror, capsys, tmp_path):
    make_checkpoint(tmp_path / "model")
    words = [
        "tasks",
        "check",
        "boolq",
        "--mirror",
        str(mirror),
        "--model",
        str(tmp_path / "model"),
        "--max-length",
        "60",
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert (
        f"task boolq (boolq: yes/no question about a passage): loads from mirror {mirror}/boolq; form classify" in out
    )
    assert "source, train: 120 rows; published: 9,427" in out
    assert "source, test: 40 rows; published: 3,270" in out
    assert "50.0%" in next(line for line in out.splitlines() if line.startswith("test "))
    assert "of the larger class, to balance" in next(line for line in out.splitlines() if "rows left out" in line)
    assert "overlaps: no group lies in two parts" in out
    assert "--- an example with label 0: not 'the answer is yes'\nPassage: " in out
    assert "--- an example with label 1: the answer is yes\nPassage: " in out
    tokens = next(line for line in out.splitlines() if line.startswith("tokens"))
    assert all(word in tokens for word in ("median", "90 %", "99 %", "longest"))
    longer = next(line for line in out.splitlines() if line.startswith("longer than 60 tokens"))
    texts = sum(
        int(line.split()[1]) for line in out.splitlines() if line.startswith(("supervise", "test ", "transf", "valid"))
    )
    assert f" of {texts} texts" in longer


def test_token_lengths_say_what_is_cut_and_where(mirror, capsys, tmp_path):
    make_checkpoint(tmp_path / "model")  # has 64 positions

    def check(task, max_length):
        options = ["--mirror", str(mirror), "--model", str(tmp_path / "model"), "--max-length", max_length]
        assert main(["tasks", "check", task, *options]) == 0
        return capsys.readouterr().out

    assert "longer than 64 tokens (as many as the model has positions for): " in check("boolq", "512")
    out = check("boolq", "5")
    assert "(100.0%); they are cut on the right" in out
    out = check("anthropic_hh", "30")
    pairs = sum(
        int(line.split()[1]) for line in out.splitlines() if line.startswith(("superv", "test ", "tran", "val"))
    )
    assert f": {pairs} of {pairs} pairs (100.0%); their prompts are cut on the left, as much for one reply as" in out
    assert "have a reply" not in out
    assert "tokens (" in out
    for what in ("  prompts: median ", "  replies: median "):
        assert what in out
    out = check("anthropic_hh", "3")
    assert f"of these, {pairs} have a reply that leaves no room for any of the prompt" in out
    assert f"of these, {pairs} have a reply that is longer by itself, which loses its beginning" in out


def test_whole_conversations_without_a_prompt_are_noticed(mirror, capsys, tmp_path):
    file = mirror / "anthropic_hh" / "train.jsonl"
    task = f"{{name: hh, source: files, form: compare, train: [{file}]}}"
    assert main(["tasks", "check", str(spec(tmp_path, task))]) == 0
    out = capsys.readouterr().out
    assert r'prompts: none; but 100% of the pairs are conversations that begin alike up to "\n\nAssistant:"' in out
    separated = task.replace("form: compare", r'form: compare, prompt_separator: "\n\nAssistant:"')
    assert main(["tasks", "check", str(spec(tmp_path, separated))]) == 0
    assert "prompts: none" not in capsys.readouterr().out


def test_overlaps_between_the_sources_splits_are_told(mirror, capsys):
    train, test = (mirror / "boolq" / f"{split}.jsonl" for split in ("train", "validation"))
    copied = train.read_text().splitlines()[:3]
    test.write_text(test.read_text() + "\n".join(copied) + "\n")
    assert main(["tasks", "check", "boolq", "--mirror", str(mirror)]) == 0
    out = capsys.readouterr().out
    assert (
        "rows of train that the source shares with its test: 3 by passage, 3 by text; left out with what is tied" in out
    )


def test_pairs_are_shown_with_prompt_and_both_replies(mirror, capsys):
    assert main(["tasks", "check", "anthropic_hh", "--mirror", str(mirror)]) == 0
    out = capsys.readouterr().out
    assert "--- an example with label 0: the first\n[prompt] \n\nHuman:" in out
    assert "[second]" in out


def test_answers_in_words_are_shown_and_prompts_that_are_too_long_counted(capsys, tmp_path):
    make_checkpoint(tmp_path / "model")
    rows = [{"q": f"what follows {'on ' * (i % 30)}{i}?", "a": f" {i}", "t": f"size:{i % 3}"} for i in range(200)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = "{prompt: q, answer: a, tags: [t]}"
    path = spec(tmp_path, f"{{name: mine, source: files, form: generate, train: [mine.jsonl], columns: {columns}}}")

    def check(*options):
        assert main(["tasks", "check", str(path), "--model", str(tmp_path / "model"), *options]) == 0
        return capsys.readouterr().out

    out = check("--max-length", "40")
    assert "form generate" in out
    assert "label" not in out
    assert "tags of the test: " in out
    assert out.count("--- an example\n[prompt] what follows ") == 2
    assert "\n[answer]  " in out
    longer = next(line for line in out.splitlines() if line.startswith("longer than"))
    kept, both, room = [int(word) for word in longer.replace(",", "").split() if word.isdigit()][:3]
    assert both == 40
    assert kept == both - room > 0
    assert " of 200 prompts (" in longer
    assert longer.endswith("they are cut on the left, so that their end stays")
    more = next(line for line in check("--max-length", "64").splitlines() if line.startswith("longer"))
    cut, fewer = (int(line.split(" of 200")[0].split()[-1]) for line in (longer, more))
    assert cut > fewer > 0
    assert "prompt and answer together only 4: runs will refuse this" in check("--max-length", "4")


def test_all_tasks_of_a_sweep_are_checked_also_when_one_does_not_load(mirror, capsys, tmp_path):
    path = spec(
        tmp_path,
        "{dataset: boolq, mirror: mirror}",
        "{dataset: piqa, mirror: mirror}",
        "{dataset: sciq, mirror: mirror}",
    )
    assert main(["tasks", "check", str(path)]) == 2
    captured = capsys.readouterr()
    assert "task boolq (" in captured.out
    assert "task sciq (" in captured.out
    assert "the paper has about 23,000" in captured.out
    assert "task piqa: does not load\nmirror" in captured.err
    assert "hf download baber/piqa --repo-type dataset" in captured.err


def test_what_is_no_task_is_refused(capsys, tmp_path):
    assert "there is no task 'bolq'; did you mean 'boolq'?" in refused(capsys, "tasks", "check", "bolq")
    assert "gone.yaml: no such file" in refused(capsys, "tasks", "check", str(tmp_path / "gone.yaml"))
    assert "hf download google/boolq --repo-type dataset" in refused(capsys, "tasks", "check", "boolq")


def test_the_offline_world_can_be_checked(capsys):
    assert main(["tasks", "check", "facts"]) == 0
    assert "source, train: 12,800 rows" in capsys.readouterr().out


# -- new -------------------------------------------------------------------------------------------------------


def test_a_new_python_task_can_be_checked_at_once(capsys, tmp_path):
    assert main(["tasks", "new", "mine", "--kind", "python", "--out", str(tmp_path)]) == 0
    assert main(["tasks", "check", str(tmp_path / "mine.yaml")]) == 0
    assert "source, train: 2,000 rows" in capsys.readouterr().out


def test_a_new_files_task_says_which_file_it_waits_for(capsys, tmp_path):
    assert main(["tasks", "new", "mine", "--out", str(tmp_path)]) == 0
    assert "mine_train.jsonl: no such file" in refused(capsys, "tasks", "check", str(tmp_path / "mine.yaml"))
    assert "mine.yaml: is there already" in refused(capsys, "tasks", "new", "mine", "--out", str(tmp_path))
    assert "'my-task': a name for files and a function is needed" in refused(capsys, "tasks", "new", "my-task")
