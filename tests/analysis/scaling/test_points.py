"""Tables to points: order, means, and every bad input's message."""

import numpy as np
import polars as pl
import pytest

from analysis.errors import AnalysisError
from analysis.scaling.points import Points, percent_doubt, points_of, unit_doubt

GOOD = {"x": [10.0, 1.0, 100.0], "y": [0.5, 0.4, 0.6], "n": [100, 50, 200], "seed": ["a", "b", "a"]}


def made(**changes):
    return points_of(pl.DataFrame(GOOD | changes, strict=False), ["x"], "y", n="n", seed="seed", where="t.csv")


def test_points_are_sorted_with_what_belongs_to_them():
    points = made()
    assert points.x[:, 0].tolist() == [1, 10, 100]
    assert points.y.tolist() == [0.4, 0.5, 0.6]
    assert points.n is not None
    assert points.n.tolist() == [50, 100, 200]
    assert points.seed is not None
    assert points.seed.tolist() == ["b", "a", "a"]
    assert points.shares


def test_surfaces_are_sorted_by_the_first_variable():
    frame = pl.DataFrame({"N": [2.0, 1.0, 1.0], "D": [1.0, 9.0, 3.0], "y": [1.0, 2.0, 3.0]})
    points = points_of(frame, ["N", "D"], "y")
    assert points.x.tolist() == [[1, 3], [1, 9], [2, 1]]
    assert points.y.tolist() == [3, 2, 1]
    assert not points.shares


def test_numbers_written_as_text_are_read():
    assert made(x=["1e1", "1", "1e2"]).x[:, 0].tolist() == [1, 10, 100]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": [10.0, 0.0, 100.0]}, r"t\.csv: column 'x' has 0\.0 in row 2: x is on a logarithmic axis"),
        ({"x": [-1.0, 0.0, 100.0]}, r"'x' has -1\.0 in row 1, 0\.0 in row 2"),
        ({"x": ["70M", "1", "2"]}, r"'x' has '70M' in row 1: all values must be plain numbers"),
        ({"y": [0.5, None, 0.6]}, r"'y' has None in row 2: leave out or fill in empty"),
        ({"y": [0.5, float("nan"), 0.6]}, r"'y' has nan in row 2"),
        ({"x": [1.0, 2.0, float("inf")]}, r"'x' has inf in row 3"),
        ({"n": [100, 50, 0.5]}, r"'n' has 0\.5 in row 3: .*so at least 1"),
        ({"x": [1e-3, 1.0, 1e18]}, r"'x' goes from 0\.001 in row 1 to 1e\+18 in row 3, over 21 decades: two units"),
        ({"n": [100, 0, 5]}, r"'n' has 0 in row 2: n is a number of examples behind each share of 'y'"),
        ({"y": [50.0, 40.0, 60.0]}, r"'y' has 50\.0 in row 1.*are these percent\? Divide them by 100\.$"),
        ({"y": [0.5, 40.0, 60.0]}, r"percent\? Divide them by 100\. Some are in \[0, 1\].*two units"),
        ({"y": [-0.5, 0.4, 0.6]}, r"'y' has -0\.5 in row 1: with n given, y is a share and must lie in \[0, 1\]$"),
    ],
)
def test_bad_values_are_named_with_column_and_row(changes, message):
    with pytest.raises(AnalysisError, match=message):
        made(**changes)


def test_many_bad_rows_are_counted():
    frame = pl.DataFrame({"x": [0.0] * 5, "y": [1.0] * 5})
    with pytest.raises(AnalysisError, match=r"row 1, 0\.0 in row 2, 0\.0 in row 3 and 2 more rows"):
        points_of(frame, ["x"], "y")


def test_all_faults_of_a_table_are_told_at_once_by_kind():
    frame = pl.DataFrame(
        {"x": [1.0, None, float("nan"), 0.0, -1.0, -2.0], "y": [1.0, 1.0, float("inf"), 1.0, None, 1.0]}
    )
    with pytest.raises(AnalysisError) as caught:
        points_of(frame, ["x"], "y")
    told = str(caught.value)
    assert "column 'x' has None in row 2, nan in row 3 (1 empty, 1 NaN)" in told
    assert "column 'y' has inf in row 3, None in row 5 (1 infinite, 1 empty)" in told
    assert "column 'x' has 0.0 in row 4, -1.0 in row 5, -2.0 in row 6 (1 zero, 2 negative): x is on a log" in told


@pytest.mark.parametrize(
    ("name", "y", "doubted"),
    [
        ("accuracy", [60.0, 65.0, 70.0], True),
        ("test_acc", [2.0, 100.0], True),
        ("win %", [40.0, 60.0], True),
        ("accuracy", [0.6, 0.7], False),
        ("accuracy", [60.0, 101.0], False),
        ("loss", [3.0, 2.0], False),
    ],
)
def test_shares_that_look_like_percent_are_doubted(name, y, doubted):
    assert bool(percent_doubt(np.array(y), name)) == doubted


def test_missing_columns_and_empty_tables():
    frame = pl.DataFrame({"x": [1.0], "y": [1.0]})
    for arguments in ({"n": "count"}, {"seed": "count"}):
        with pytest.raises(AnalysisError, match="there is no column 'count'; the columns are x, y"):
            points_of(frame, ["x"], "y", **arguments)
    with pytest.raises(AnalysisError, match="no rows to fit"):
        points_of(frame.clear(), ["x"], "y")
    with pytest.raises(AnalysisError, match="one y per x"):
        Points(np.ones((3, 1)), np.ones(2))


def test_means_are_weighted_by_counts():
    points = Points(np.array([[1.0], [1.0], [2.0]]), np.array([0.2, 0.5, 0.7]), np.array([200.0, 100.0, 50.0]))
    means = points.means()
    np.testing.assert_allclose(means.y, [0.3, 0.7])
    assert means.n is not None
    assert means.n.tolist() == [300, 50]
    assert (points.n_levels, len(points), len(points.up_to(1.0))) == (2, 3, 2)
    np.testing.assert_allclose(Points(points.x, points.y).means().y, [0.35, 0.7])


def test_some_rows_of_a_table_are_named_as_the_table_counts_them():
    frame = pl.DataFrame({"x": [1.0, 2.0, -3.0, 4.0], "y": [1.0, 2.0, 3.0, 4.0]})
    assert points_of(frame, ["x"], "y", rows=np.array([3, 1])).y.tolist() == [2, 4]
    with pytest.raises(AnalysisError, match=r"'x' has -3\.0 in row 3"):
        points_of(frame, ["x"], "y", rows=np.array([1, 2]))
    with pytest.raises(AnalysisError, match="no rows to fit"):
        points_of(frame, ["x"], "y", rows=np.array([], dtype=int))


@pytest.mark.parametrize(
    ("y", "doubted"),
    [
        ([0.5, 0.6, 70.0, 80.0], True),
        ([0.5, 0.9, 1.2, 3.0], False),  # losses around 1
        ([0.5, 0.6, 700.0], False),  # above 100 nothing is percent
        ([50.0, 60.0], False),
        ([-0.5, 0.6, 70.0], False),
    ],
)
def test_shares_among_percent_are_doubted(y, doubted):
    assert bool(unit_doubt(np.array(y))) == doubted
