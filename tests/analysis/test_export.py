import polars as pl
import pytest

import analysis
from analysis.results import load as load_results


@pytest.fixture
def store(writer, small_world):
    writer.world(small_world(rungs=2, seeds=1))
    return writer.root


@pytest.mark.parametrize("table", ["runs", "pairs"])
def test_a_parquet_export_is_the_table(store, tmp_path, table):
    out = analysis.export(store, tmp_path / "new" / "out.parquet", table)
    assert pl.read_parquet(out).equals(getattr(load_results(store), table))


def test_a_csv_export_has_the_same_rows_and_columns(store, tmp_path):
    table = pl.read_csv(analysis.export(store, tmp_path / "out.csv", "pairs"))
    pairs = load_results(store).pairs
    assert table.columns == pairs.columns
    assert table["pgr"].to_list() == pytest.approx(pairs["pgr"].to_list())


def test_exported_pairs_say_whether_their_gap_can_be_told_from_zero(writer, small_world, tmp_path):
    writer.world(small_world(supervisor=(0.6, 0.9, 0.9), ceiling=(0.6, 0.9, 0.9), seeds=2, seed_sd=0.0))
    results = load_results(writer.root)
    over_seeds = analysis.estimate(results).pairs.select("method", "weak", "strong", "has_gap")
    exported = pl.read_csv(analysis.export(writer.root, tmp_path / "out.csv", "pairs"))
    assert set(exported["has_gap"]) == {True, False}
    joined = exported.join(over_seeds, on=["method", "weak", "strong"], suffix="_over_seeds", validate="m:1")
    assert joined.height == 12
    assert joined["has_gap"].to_list() == joined["has_gap_over_seeds"].to_list()


def test_an_export_leaves_no_other_file_and_replaces_an_earlier_one(store, tmp_path):
    out = tmp_path / "exports" / "out.csv"
    analysis.export(store, out)
    out.write_text("old")
    analysis.export(store, out)
    assert [path.name for path in out.parent.iterdir()] == ["out.csv"]
    assert out.read_text().startswith("run_id,")


def test_an_unknown_ending_or_table_is_refused_with_the_right_ones(store, tmp_path):
    with pytest.raises(analysis.AnalysisError, match=r"out\.xlsx: .* one of \.parquet, \.csv, got \.xlsx"):
        analysis.export(store, tmp_path / "out.xlsx")
    with pytest.raises(analysis.AnalysisError, match="no table 'pair'; take runs or pairs"):
        analysis.export(store, tmp_path / "out.csv", "pair")  # type: ignore[arg-type]


def test_a_place_that_cannot_be_written_is_named(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(analysis.AnalysisError, match=r"file/out\.csv cannot be written"):
        analysis.export(store, tmp_path / "file" / "out.csv")
