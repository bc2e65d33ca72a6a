"""Every example is a valid sweep file; those that need no download plan to the end. What the README shows works."""

import re
from pathlib import Path

import pytest

from sweep.session import Session
from sweep.spec import load_spec
from tests.w2s.stand_ins import make_checkpoint, make_task

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
STUDIES = sorted((Path(__file__).parents[1] / "examples" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("file", [*EXAMPLES, *STUDIES], ids=lambda file: file.stem)
def test_an_example_is_a_valid_spec(file):
    spec = load_spec(file)
    assert spec.rung_pairs()
    assert spec.methods[0].name == "naive"


def test_the_offline_example_is_the_documented_grid(tmp_path):
    plan = Session.open(str(EXAMPLES[0].parent / "facts.yaml"), str(tmp_path)).plan
    assert len(plan.pairs) == 15 * 2 * 3
    assert len(plan.runs) == 18 + 30 + 90


@pytest.mark.parametrize("file", [f for f in STUDIES if f.name[0].isdigit()], ids=lambda file: file.stem)
def test_an_offline_study_plans_to_the_end(file, tmp_path):
    """Every method of it applies to some pair, and all studies share one storage."""
    session = Session.open(str(file), str(tmp_path))
    assert {pair.seed for pair in session.plan.pairs} == {0, 1, 2}
    assert session.spec.storage == "results/studies"


def block(language: str, word: str) -> str:
    """The README's one block of code in a language that holds a word."""
    (found,) = (text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if word in text)
    return found


def test_the_spec_in_the_readme_plans_to_the_end(tmp_path):
    """With checkpoints made here in place of those of the hub."""
    text = block("yaml", "my-sweep")
    for rung in ("pythia-70m", "pythia-410m"):
        assert f"- EleutherAI/{rung}\n" in text
        text = text.replace(f"- EleutherAI/{rung}\n", f"- {{model: ./{rung}, pretrain_tokens: 3.0e+11}}\n")
        make_checkpoint(tmp_path / rung, seed=len(rung))
    make_checkpoint(tmp_path / "checkpoints" / "mine", seed=1)
    (file,) = make_task(tmp_path).train
    rows = Path(file).read_text().replace('"text"', '"review"').replace('"label"', '"sentiment"')
    (tmp_path / "reviews.jsonl").write_text(rows)
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    plan = Session.open(str(spec), str(tmp_path / "results")).plan
    assert len(plan.pairs) == 3 * 2 * 3


def test_the_notebook_example_in_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = block("python", "run_one")
    assert "tokens=600_000" in code
    code = code.replace("600_000", "3_000").replace('source="facts"', 'source="facts", splits=SMALL')
    exec(code, {"SMALL": {"supervise": 64, "transfer": 64, "validation": 16, "test": 64}})
    supervisor, student, ceiling = (float(part) for part in capsys.readouterr().out.strip("[]\n").split(","))
    assert all(0 <= accuracy <= 1 for accuracy in (supervisor, student, ceiling))
