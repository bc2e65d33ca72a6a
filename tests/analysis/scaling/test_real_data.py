"""Known answers on real scaling data, through the benchmark scripts that make the tables in docs/scaling.md."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))  # scripts, not a package

import chinchilla
import isoflops
import scaling_data
import w2s_grid

from analysis.scaling.fitting import FitStatus
from analysis.scaling.uncertainty import resample


@pytest.fixture(scope="module")
def data(shared_data: Path) -> Path:
    if not (shared_data / "scaling").is_dir() or not (shared_data / "w2s").is_dir():
        pytest.skip(f"no scaling data here: {shared_data} lacks scaling/ or w2s/")
    return shared_data


# --- the Chinchilla surface ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", [chinchilla.HOFFMANN, chinchilla.BESIROGLU, *chinchilla.random_surfaces(20)])
def test_surfaces_without_noise_are_recovered(surface):
    assert chinchilla.recovery(surface, chinchilla.grid()) < 1e-6


def test_compute_optimal_policy_by_hand():
    # Equal terms: N = D = sqrt(C / 6), one token per parameter.
    even = {"E": 1.0, "A": 5.0, "B": 5.0, "alpha": 0.3, "beta": 0.3}
    found = chinchilla.policy(even, flops=6e10)
    assert found["a"] == pytest.approx(0.5)
    assert found["params"] == pytest.approx(1e5)
    assert found["ratio"] == pytest.approx(1.0)


def test_policy_is_the_minimum_of_the_surface():
    flops = 1e21
    params = chinchilla.policy(chinchilla.HOFFMANN, flops)["params"]
    near = params * np.array([0.9, 1.0, 1.1])
    loss = chinchilla.surface_at(chinchilla.HOFFMANN, np.stack([near, flops / (6 * near)], axis=-1))
    assert loss[1] < loss[0]
    assert loss[1] < loss[2]


def test_chinchilla_points_give_the_published_refit(data: Path):
    fit = chinchilla.fit_surface(scaling_data.chinchilla(data))
    found = fit.natural()
    assert len(fit.points) == 240
    assert fit.status is FitStatus.CONVERGED
    for name, published in chinchilla.BESIROGLU.items():
        assert abs(found[name] - published) < chinchilla.BESIROGLU_ERRORS[name], name
    for name in ("E", "alpha", "beta"):
        assert found[name] == pytest.approx(chinchilla.BESIROGLU[name], abs=0.005)
    # At least as good as the printed parameters, and four times better than those of the original paper.
    x, y = fit.points.x, fit.points.y
    refit, original = (
        float(chinchilla.LOSS.objective(y, chinchilla.surface_at(surface, x), np.ones_like(y)))
        for surface in (chinchilla.BESIROGLU, chinchilla.HOFFMANN)
    )
    assert fit.objective <= refit
    assert original > 4 * fit.objective


def test_resampled_errors_agree_with_published_ones(data: Path):
    fit = resample(chinchilla.fit_surface(scaling_data.chinchilla(data)), "cases", draws=200)
    errors = chinchilla.standard_errors(fit)
    for name, rounded in {"E": 0.005, "alpha": 0.005, "beta": 0.006}.items():  # half a printed digit, and simulation
        assert errors[name] == pytest.approx(chinchilla.BESIROGLU_ERRORS[name], abs=rounded + 0.003), name


def test_the_excluded_points_matter(data: Path):
    whole = chinchilla.fit_surface(scaling_data.chinchilla(data, drop_highest=0)).natural()
    subset = chinchilla.fit_surface(scaling_data.chinchilla_subset(data)).natural()
    assert whole["beta"] == pytest.approx(0.453, abs=0.005)
    assert subset["beta"] == pytest.approx(0.342, abs=0.005)


# --- IsoFLOP data sets -----------------------------------------------------------------------------------------------


def test_parabola_is_exact_and_ignores_one_outlier():
    u = np.linspace(-1, 1, 9)
    y = 3 + 0.2 * (u - 0.25) ** 2
    bent = y.copy()
    bent[-1] += 1.0
    weights = np.ones((1, u.size))
    assert isoflops.parabolas(u, y, weights)[0] == pytest.approx([3.0125, -0.1, 0.2])
    c = isoflops.parabolas(u, bent, weights)[0]
    assert -c[1] / (2 * c[2]) == pytest.approx(0.25, abs=0.02)


def test_both_approaches_find_the_exponent_of_a_known_surface():
    truth = {"E": 1.8, "A": 400.0, "B": 400.0, "alpha": 0.35, "beta": 0.35}
    rows = []
    for budget in (1e18, 1e19, 1e20, 1e21):
        best = chinchilla.policy(truth, budget)["params"]
        for params in best * np.geomspace(0.25, 4, 7):
            tokens = budget / 6 / params
            loss = chinchilla.surface_at(truth, np.array([[params, tokens]]))[0]
            rows.append({"params": params, "tokens": tokens, "budget": budget, "loss": float(loss)})
    frame = pl.DataFrame(rows)
    # alpha = beta makes the loss symmetric in log N about its minimum, so the parabola's vertex is exact.
    second = isoflops.approach_2(frame, draws=20)
    assert second.exponent[0] == pytest.approx(0.5, abs=1e-6)
    assert second.left_out == {}
    fit, third = isoflops.approach_3(frame, draws=20)
    assert third[0] == pytest.approx(0.5, abs=1e-9)
    assert fit.status is FitStatus.CONVERGED


def test_budgets_without_a_minimum_are_named():
    falling = [{"params": n, "budget": 1e18, "loss": 4 - 0.1 * np.log(n)} for n in (1e6, 3e6, 1e7, 3e7)]
    few = [{"params": n, "budget": 3e18, "loss": 3.0 + n / 1e7} for n in (1e6, 1e7)]
    bowls = [
        {"params": float(np.exp(u)), "budget": budget, "loss": 3 + (u - centre) ** 2}
        for budget, centre in ((1e19, 14.0), (1e20, 15.0), (1e21, 16.0))
        for u in np.linspace(centre - 1, centre + 1, 6)
    ]
    found = isoflops.approach_2(pl.DataFrame([*falling, *few, *bowls]), draws=10)
    assert set(found.left_out) == {"1.0e+18", "3.0e+18"}
    assert "2 sizes" in found.left_out["3.0e+18"]
    assert found.exponent[0] == pytest.approx(1 / np.log(10))


def test_every_isoflop_data_set_fits(data: Path):
    found = isoflops.data_sets(data)
    assert len(found) == 10
    for name, (frame, _) in found.items():
        fit = chinchilla.fit_surface(frame)
        assert fit.status is FitStatus.CONVERGED, name
        assert all(np.isfinite(value) and value > 0 for value in fit.natural().values()), name
        assert np.median(np.abs(fit.residuals)) < 0.01, name


def test_run_exports_are_cleaned_and_what_was_dropped_is_counted(tmp_path: Path):
    folder = tmp_path / "scaling" / "isoflops" / "marin_raw"
    folder.mkdir(parents=True)
    head = "Name,parameter_count,throughput/total_tokens,throughput/total_gflops,eval/paloma/macro_loss"
    good = [f"run{i},{10 + i},100,6.0001,3.{i}" for i in range(6)]
    bad = ["again,10,100,6.0002,3.2", "crashed,16,100,6,NaN", "empty,17,100,6,", "alone,18,100,99,3"]
    (folder / "isoflop-x.csv").write_text("\n".join([head, *good, *bad]))
    frame, dropped = scaling_data.raw_runs(tmp_path, "x")
    assert frame.height == 6
    assert frame["budget"].unique().to_list() == [6.0e9]
    assert frame.filter(pl.col("params") == 10)["loss"].item() == pytest.approx(3.1)  # the mean of both runs
    assert list(dropped.values()) == [2, 1, 1]


# --- the SST-2 grid --------------------------------------------------------------------------------------------------


def test_cells_are_read_with_seven_transfer_sizes():
    published = pl.DataFrame(
        {
            "weak": ["bert-tiny", "bert-tiny", "bert-medium"],
            "n_labelled": [4000, 6000, 15000],
            "n_transfer": [40000, 8000, 40000],
        }
    )
    # Jobs 5, 6 and 215 of 252: (tiny, first label size, sixth), (tiny, first, seventh), (medium, fourth, sixth).
    labelled, transfer, weak = scaling_data.true_cell(published)
    assert weak.to_list() == ["bert-tiny", "bert-tiny", "bert-medium"]
    assert labelled.to_list() == [4000, 4000, 8000]
    assert transfer.to_list() == [35000, 40000, 35000]


def test_corrected_labels_explain_the_grid(data: Path):
    sizes = ["n_labelled", "n_transfer"]
    assert w2s_grid.explained(scaling_data.sst2(data, as_published=True).ceilings, sizes) < 0.1
    assert w2s_grid.explained(scaling_data.sst2(data).ceilings, sizes) > 0.95


def test_known_cells_of_the_grid(data: Path):
    grid = scaling_data.sst2(data)
    assert (grid.teachers.height, grid.students.height, grid.ceilings.height) == (108, 638, 54)
    for frame in (grid.teachers, grid.students, grid.ceilings):
        right = frame["accuracy"].to_numpy() * scaling_data.SST2_TEST
        assert np.abs(right - np.rint(right)).max() < 1e-4
    cells = w2s_grid.cells_of(grid)
    means = dict(zip(cells.frame.select(w2s_grid.CELL).iter_rows(), cells.means, strict=True))
    # bert-tiny on 4,000: read off the files by hand, (teacher, student, ceiling).
    assert means["bert-tiny", 4000, 8000] == pytest.approx([0.69457, 0.70867, 0.94206], abs=1e-5)
    assert means["bert-tiny", 4000, 40000][1] == pytest.approx(0.69909, abs=1e-5)  # published as 6,000 and 8,000


def test_missing_cells_are_reported(data: Path):
    missing = w2s_grid.incomplete(scaling_data.sst2(data))
    none = missing.filter(pl.col("seeds") == 0)
    assert none["weak"].unique().to_list() == ["bert-medium"]
    assert none.height == 36
    few = missing.filter((pl.col("seeds") > 0) & (pl.col("seeds") < 3))
    # One teacher's labels are missing: all seven students of bert-tiny on 10,000, third seed; and three single runs.
    assert few.filter(pl.col("weak") == "bert-tiny").select("n_labelled").unique().rows() == [(10000,)]
    assert few.group_by("weak").len().sort("weak").rows() == [("bert-small", 3), ("bert-tiny", 7)]
    assert missing.filter(~pl.col("ceiling"), pl.col("weak") == "bert-tiny").height == 9


def test_every_cell_has_a_gap_and_an_interval(data: Path):
    cells = w2s_grid.cells_of(scaling_data.sst2(data))
    drawn = w2s_grid.draw(cells, draws=300)
    gaps, found = w2s_grid.interval(cells, drawn, w2s_grid.gap_of), w2s_grid.interval(cells, drawn, w2s_grid.pgr_of)
    assert cells.frame.height == 189
    assert np.all(gaps.low > 0)
    assert np.all((found.low < found.estimate) & (found.estimate < found.high))


def test_pgr_by_hand():
    assert w2s_grid.pgr_of(np.array([0.7, 0.8, 0.9])) == pytest.approx(0.5)


def test_without_spread_over_seeds_intervals_are_binomial():
    """One cell, equal over seeds, student at the teacher: PGR varies by sqrt(2) binomial errors over the gap."""
    frame = pl.DataFrame({"weak": ["bert-tiny"], "n_labelled": [4000], "n_transfer": [8000], "n_seeds": [3]})
    cells = w2s_grid.Cells(frame, np.full((1, 2, 3), 0.8), np.array([0.9]))
    found = w2s_grid.interval(cells, w2s_grid.draw(cells, draws=4000), w2s_grid.pgr_of)
    expected = 1.96 * np.sqrt(2 * 0.8 * 0.2 / scaling_data.SST2_TEST) / 0.1
    assert found.high - found.low == pytest.approx([2 * expected], rel=0.1)


# --- the catalogue of curves -----------------------------------------------------------------------------------------


def test_equal_x_are_merged():
    points = scaling_data.merged(np.array([200.0, 100.0, 101.0]), np.array([5.0, 2.0, 4.0]))
    assert points.x[:, 0] == pytest.approx([np.sqrt(100 * 101), 200])
    assert points.y == pytest.approx([3, 5])


def test_chance_is_judged_on_the_smaller_half_only():
    at_chance = np.array([0.25, 0.26, 0.25, 0.9, 0.95, 0.99])
    assert not scaling_data.above_chance(at_chance, n=1000, chance=0.25)
    assert scaling_data.above_chance(at_chance[::-1], n=1000, chance=0.25)


def test_curves_are_distinct_and_split_in_two(data: Path):
    found = scaling_data.curves(data)
    assert len({(curve.source, curve.name) for curve in found}) == len(found) > 300
    assert all(curve.points.n_levels >= scaling_data.SMALLEST_CURVE for curve in found)
    assert all((curve.points.n is not None) == (curve.kind == "accuracy") for curve in found)
    development = sum(curve.split == "development" for curve in found)
    assert 0.4 < development / len(found) < 0.6
