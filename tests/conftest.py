"""Shared by all tests."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("no deadlines", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadlines")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TINY = """\
name: tiny
seeds: [0]
ladder:
  seed: per_seed
  rungs:
    - {name: d4, hidden_size: 4, layers: 1, heads: 2, tokens: 20_000}
    - {name: d8, hidden_size: 8, layers: 1, heads: 2, tokens: 40_000}
    - {name: d16, hidden_size: 16, layers: 1, heads: 2, tokens: 40_000}
tasks:
  - name: facts
    source: facts
    splits: {supervise: 400, transfer: 400, validation: 100, test: 600}
methods: [naive, confidence]
finetune:
  learning_rate: {value: 3.0e-4, reference_width: 32, exponent: -0.5}
  schedule: linear
  max_length: 8
  eval_every: 10
"""
"""A sweep of three rungs that takes seconds: 3 pretrainings, 4 on ground truth, 6 transfers."""


@pytest.fixture(scope="session")
def tiny_text() -> str:
    return TINY


@pytest.fixture
def tiny(tmp_path):
    """Writes the tiny sweep file, with text replaced: `tiny({"seeds: [0]": "seeds: [0, 1]"})`."""

    def write(changes: dict[str, str] | None = None, name: str = "tiny.yaml") -> Path:
        text = TINY
        for old, new in (changes or {}).items():
            assert old in text, f"{old!r} is not in the tiny spec"
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of real data, where there is one."""
    folder = Path(os.environ.get("W2S_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data here: {folder} is absent (W2S_SHARED_DATA names another folder)")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those on Ray first: they take longest, and in `make test` nothing could run beside the last of them."""
    items.sort(key=lambda item: item.path.parent.name != "end_to_end")


FIRST_HALF = ("test_engine", "test_generate", "test_interrupt", "test_kill", "test_packing")
"""Files of tests/end_to_end that take about as long as the others."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `pytest -n`: a file stays in one process, with its fixtures; those on Ray take turns, in two processes."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if "end_to_end/" not in file:
                return file
            return "ray 1" if Path(file).stem in FIRST_HALF else "ray 2"

    return ByFile(config, log)
