"""What a search by `w2s tune` found, from its files: tables for a notebook, sentences, figures, and a report.

    search = analysis.tuning.load("results/facts")
    search.best, search.fresh.differences, search.plot("slice")
    analysis.tuning.write_tuning_report("results/facts", search.files.tune_id, "report/")

What the search saw of its candidates has no intervals: the winner was chosen for its value. What it is worth is told
by fresh instances, tuned minus default, paired, with intervals.
"""

from analysis.tuning.fresh import Fresh
from analysis.tuning.notebook import Tuning, load
from analysis.tuning.report import write_tuning_report

__all__ = ["Fresh", "Tuning", "load", "write_tuning_report"]
