"""Every example is a valid sweep file; those that need no download plan to the end."""

from pathlib import Path

import pytest

from sweep.session import Session
from sweep.spec import load_spec

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_a_valid_spec(file):
    spec = load_spec(file)
    assert spec.rung_pairs()
    assert spec.methods[0].name == "naive"


def test_the_offline_example_is_the_documented_grid(tmp_path):
    plan = Session.open(str(EXAMPLES[0].parent / "facts.yaml"), str(tmp_path)).plan
    assert len(plan.pairs) == 15 * 2 * 3
    assert len(plan.runs) == 18 + 30 + 90
