"""From a store of finished runs to tables, intervals, fitted curves, plots and a report; and scaling curves of any
table.

Files are the only way in: this package imports neither torch nor Ray, nor the packages that train and schedule.

    results = analysis.load("results/facts")
    results.pairs(), results.pgr(), results.plot("pgr")           # polars frames with intervals, matplotlib axes
    analysis.write_report("results/facts", "report/")

    analysis.tuning.load("results/tune-facts")                         # what `w2s tune` found

    curves = analysis.fit(table, x="compute", y="loss", by="model")   # any table of points
    curves.predict([1e22]), curves.plot()
"""

from analysis import tuning
from analysis.errors import AnalysisError
from analysis.estimates import Estimates, Options, compare, estimate
from analysis.export import export
from analysis.extrapolation import Extrapolation, extrapolate
from analysis.notebook import SweepResults, load
from analysis.report import write_report
from analysis.results import Results
from analysis.scaling.surfaces import fit2
from analysis.scaling.tables import fit
from analysis.stopping import Stop, stop_step
from analysis.summary import summary
from analysis.training import training
from analysis.trends import Trends, trends

__all__ = [
    "AnalysisError",
    "Estimates",
    "Extrapolation",
    "Options",
    "Results",
    "Stop",
    "SweepResults",
    "Trends",
    "compare",
    "estimate",
    "export",
    "extrapolate",
    "fit",
    "fit2",
    "load",
    "stop_step",
    "summary",
    "training",
    "trends",
    "tuning",
    "write_report",
]
