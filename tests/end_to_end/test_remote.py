"""Sweeps on object storage: the same command line, the same tables; an S3 API server on loopback."""

import re
from pathlib import Path

import polars as pl
import pytest

from sweep.storage.store import Store
from tests.end_to_end.drive import Results, assert_same_results, w2s

pytestmark = pytest.mark.slow
URL = "s3://results/tiny"


def exported(storage: object, folder: Path, table: str) -> pl.DataFrame:
    """A table without what depends on when and where its runs were executed."""
    w2s("export", storage, folder / f"{table}.parquet", "--table", table, cwd=folder)
    frame = pl.read_parquet(folder / f"{table}.parquet")
    return frame.drop([c for c in ("seconds", "host", "attempt", "peak_memory_bytes") if c in frame.columns])


def test_a_sweep_on_s3_equals_the_local_one_and_is_read_from_anywhere(undisturbed, tiny, tmp_path, server, monkeypatch):
    local, _ = undisturbed
    spec = tiny({"name: tiny": f"name: tiny\nstorage: {URL}"})
    output = w2s("run", spec, cwd=tmp_path)
    assert "13 of 13 runs done now" in output
    remote = Results(spec, URL)  # type: ignore[arg-type]
    assert_same_results(local, remote)
    attempts = remote.attempts()

    page = Path(re.search(r"report: (\S+)", output).group(1))  # type: ignore[union-attr]
    assert page.is_file()
    assert page.is_relative_to(tmp_path / "reports")
    again = w2s("run", spec, cwd=tmp_path)
    assert "nothing to run: 13 of 13" in again
    assert remote.attempts() == attempts

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("W2S_CACHE", str(elsewhere / "cache"))  # another machine
    for table in ("pairs", "runs"):
        theirs = exported(local.storage, tmp_path, table)
        assert exported(URL, elsewhere, table).equals(theirs)
    assert "100%" in w2s("status", spec, "--storage", URL, cwd=elsewhere)
    assert "nothing to run" in w2s("plan", spec, cwd=elsewhere)
    run_id = next(iter(attempts))
    shown = w2s("show", run_id, "--storage", URL, cwd=elsewhere)
    assert attempts[run_id] in shown
    assert "metrics.json" in shown
    assert (elsewhere / re.search(r"report: (\S+)", w2s("report", URL, cwd=elsewhere)).group(1)).is_file()  # type: ignore[union-attr]
    said = w2s("report", spec, "--storage", URL, "--out", "s3://results/page", cwd=elsewhere)
    assert "report: s3://results/page/index.html" in said
    assert {"index.html", "summary.txt"} <= set(Store("s3://results/page").listing())
    assert not (elsewhere / "s3:").exists()
    assert w2s("gc", URL, cwd=elsewhere).startswith("0 items")


def test_a_search_on_s3_asks_for_a_database(tiny, tmp_path, server):
    spec = tiny({"name: tiny": f"name: tiny\nstorage: {URL}"})
    spec.write_text(spec.read_text() + TUNE)
    said = w2s("tune", spec, check=2, cwd=tmp_path)
    assert f"the results are at '{URL}', where no journal file can be appended to; give study_storage" in said


TUNE = """
tune:
  method: confidence
  space: {method.max_weight: {low: 0.1, high: 0.9}}
  instances: {seeds: [0]}
  fresh: {seeds: [1]}
  budget: {trials: 1}
"""
