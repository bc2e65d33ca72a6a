"""Scaling curves of any table: families, fits, uncertainty, and extrapolation that was tested.

    points = points_of(table, ["compute"], "accuracy", n="n_test")
    curve = forecast(points)                    # which families to trust is decided by extrapolating within the points
    curve.bands([1e21, 1e22])                   # polars: x, y, y_low_95, y_high_95, ..., reach, status

| module | |
|---|---|
| `points` | tables to checked points |
| `families` | what curves and surfaces there are |
| `losses`, `solver` | what fits minimise, and how |
| `fitting`, `uncertainty` | one fit with a diagnosis; resampling and profiles |
| `choice`, `forecast` | tests at inner origins, stacking, bands beyond the data, held-out scores |
| `tables`, `surfaces` | many curves of one table; two variables |
| `files` | tables in, folders out |
"""
