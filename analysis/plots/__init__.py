"""Figures of one section: frames in, `Figure` out. Nothing here computes a result.

Colours: methods in the order of Okabe and Ito, safe for colour-blind readers; supervisors from dark (weak) to light
(strong) of one map; ceilings black, floors grey; methods that looked at ground truth have hollow points and dotted
lines. Every figure says in its caption how many examples, seeds and resamples stand behind it.
"""

from analysis.plots.accuracy import plot_accuracy
from analysis.plots.agreement import plot_agreement
from analysis.plots.differences import plot_differences
from analysis.plots.extrapolation import plot_extrapolation
from analysis.plots.layout import spread
from analysis.plots.methods import plot_methods
from analysis.plots.overview import plot_overview
from analysis.plots.pgr import plot_pgr, plot_pgr_map
from analysis.plots.style import KINDS, interval_caption, label_of_oracles, render, shown_methods, style
from analysis.plots.tags import plot_tags
from analysis.plots.tasks import plot_tasks, plot_tasks_pgr
from analysis.plots.training import plot_training

__all__ = [
    "KINDS",
    "interval_caption",
    "label_of_oracles",
    "plot_accuracy",
    "plot_agreement",
    "plot_differences",
    "plot_extrapolation",
    "plot_methods",
    "plot_overview",
    "plot_pgr",
    "plot_pgr_map",
    "plot_tags",
    "plot_tasks",
    "plot_tasks_pgr",
    "plot_training",
    "render",
    "shown_methods",
    "spread",
    "style",
]
