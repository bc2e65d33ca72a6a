"""From a store of finished runs to tables, intervals, fitted curves, plots and a report.

Files are the only way in: this package imports neither torch nor Ray, nor the packages that train and schedule.

    results = analysis.load("results/")
    results.runs, results.pairs              # polars frames, one row per run and per pair
    analysis.estimate(results).pairs         # means over seeds with intervals
    analysis.write_report("results/", "report/")
"""

from analysis.errors import AnalysisError
from analysis.estimates import Estimates, Options, estimate
from analysis.export import export
from analysis.report import write_report
from analysis.results import Results, load
from analysis.stopping import Stop, stop_step
from analysis.summary import summary
from analysis.training import training
from analysis.trends import Trends, trends

__all__ = [
    "AnalysisError",
    "Estimates",
    "Options",
    "Results",
    "Stop",
    "Trends",
    "estimate",
    "export",
    "load",
    "stop_step",
    "summary",
    "training",
    "trends",
    "write_report",
]
