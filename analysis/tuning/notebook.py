"""A search in a notebook: its candidates, what they are worth on fresh instances, and its figures.

search = analysis.tuning.load("results/facts")
search.best, search.trials, search.importances      # polars frames
search.fresh.differences                            # tuned minus default on fresh instances, with intervals
search.plot("slice", parameter="method.max_weight")
"""

from functools import cached_property

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.errors import AnalysisError
from analysis.estimates import Options
from analysis.plots.style import style
from analysis.tuning import figures
from analysis.tuning.candidates import (
    CHAINS_SCHEMA,
    best_candidates,
    best_schema,
    chain_values,
    chains,
    most_important,
    two_to_show,
)
from analysis.tuning.fresh import Fresh, evaluate
from analysis.tuning.reading import TABLES, Parameter, StudyFiles, TuningFiles, read_tuning

KINDS = ("best", "importances", "slice", "contour", "chains", "fresh", "fresh_pairs", "front")


class Tuning:
    """A search as its files tell it; what takes time is computed once, when first asked for.

    Args:
        files: What was read.
        options: How intervals on fresh instances are made.
    """

    def __init__(self, files: TuningFiles, options: Options | None = None) -> None:
        self.files = files
        self.options = options or Options()

    def __repr__(self) -> str:
        searches = ", ".join(
            f"{study.objective} by {study.metric}: {study.trials.height} candidates" for study in self.files.studies
        )
        return f"Tuning({self.files.storage}, {self.files.tune_id}; {searches or 'no studies'})"

    @property
    def trials(self) -> pl.DataFrame:
        """One row per candidate; `params` is JSON. `objective` says of which search, here and in the next frames."""
        return self._together("trials")

    @property
    def scores(self) -> pl.DataFrame:
        """One row per candidate and instance."""
        return self._together("scores")

    @property
    def importances(self) -> pl.DataFrame:
        """Of each parameter for the value, and with two objectives for the FLOPs."""
        return self._together("importances")

    @cached_property
    def best(self) -> pl.DataFrame:
        """All complete candidates, the winner and then the best first, a column per parameter."""
        empty = pl.DataFrame(schema=best_schema(self.files.parameters))
        return pl.concat(
            [empty, *(best_candidates(study, self.files.parameters, None) for study in self.files.studies)]
        )

    @cached_property
    def chains(self) -> pl.DataFrame:
        """Mean value of each chain, with its spread over candidates."""
        frames = [
            chains(study, self.files.parameters).select(pl.lit(study.objective).alias("objective"), pl.all())
            for study in self.files.studies
        ]
        return pl.concat([pl.DataFrame(schema={"objective": pl.String} | CHAINS_SCHEMA), *frames])

    @cached_property
    def fresh(self) -> Fresh:
        """Tuned and default on fresh instances: frames `methods`, `differences`, `pairs` and `search`."""
        return evaluate(self.files, self.options)

    def plot(
        self,
        kind: str = "best",
        ax: Axes | None = None,
        *,
        objective: str | None = None,
        parameter: str | tuple[str, str] | None = None,
        by: str = "trial",
    ) -> Axes:
        """One panel of the report.

        Args:
            kind: `best` (value so far), `importances`, `slice` (of one parameter), `contour` (of two), `chains`,
                `fresh` (accuracy differences on fresh instances), `fresh_pairs` (tuned minus default at each pair),
                or `front` (value against finetuning FLOPs).
            ax: Where to draw; a new figure by default.
            objective: Which search, where there are two; by default the first.
            parameter: Of `slice` and `chains` its name; of `contour` two names. By default the most important.
            by: Of `best`: `trial` or `flops`.

        Raises:
            AnalysisError: Unknown kind, objective or parameter, or nothing to draw.
        """
        if kind not in KINDS:
            raise AnalysisError(f"there is no plot of {kind!r}; take one of {', '.join(KINDS)}")
        if by not in ("trial", "flops"):
            raise AnalysisError(f"by is {by!r}; take trial or flops")
        study = self._study(objective)
        with style():
            ax = ax if ax is not None else Figure(figsize=(6.4, 4.2), layout="constrained").subplots()
            if kind == "best":
                figures.best_panel(ax, study, by=by)
                ax.set_ylabel(figures.value_label(study))
            elif kind == "importances":
                figures.importance_panel(ax, study)
            elif kind == "slice":
                figures.slice_panel(ax, study, self._parameter(study, parameter))
                ax.set_ylabel(figures.value_label(study))
            elif kind == "contour":
                figures.contour_panel(ax, study, *self._two(study, parameter))
            elif kind == "chains":
                of = self._parameter(study, parameter, "subset")
                figures.chains_panel(ax, study, chains(study, (of,)), chain_values(study, of))
            elif kind == "front":
                figures.front_panel(ax, study)
            else:
                self._plot_fresh(ax, kind, study)
        return ax

    def _plot_fresh(self, ax: Axes, kind: str, study: StudyFiles) -> None:
        if self.fresh.is_empty:
            raise AnalysisError("; ".join(self.fresh.problems) or "nothing was evaluated on fresh instances yet")
        if kind == "fresh":
            figures.fresh_difference_panel(ax, self.fresh)
            return
        tuned, default = self.fresh.named("tuned", study.objective), self.fresh.named("default")
        if tuned is None or default is None:
            raise AnalysisError(f"the winner of objective {study.objective} and the default are not both evaluated yet")
        figures.fresh_pairs_panel(ax, self.fresh, tuned.name, default.name)

    def _together(self, name: str) -> pl.DataFrame:
        frames = [
            getattr(study, name).select(pl.lit(study.objective).alias("objective"), pl.all())
            for study in self.files.studies
        ]
        return pl.concat([pl.DataFrame(schema={"objective": pl.String} | TABLES[name]), *frames])

    def _study(self, objective: str | None) -> StudyFiles:
        known = [study.objective for study in self.files.studies]
        for study in self.files.studies:
            if objective in (None, study.objective):
                return study
        raise AnalysisError(
            f"there is no search by objective {objective!r} here; there is: {', '.join(known) or 'none'}"
        )

    def _parameter(self, study: StudyFiles, name: str | tuple[str, str] | None, kind: str | None = None) -> Parameter:
        known = [p for p in most_important(study, self.files.parameters) if kind in (None, p.kind)]
        for parameter in known:
            if name in (None, parameter.name):
                return parameter
        listed = ", ".join(p.name for p in known) or "none"
        raise AnalysisError(f"there is no {kind or 'parameter'} {name or ''} in the space; there is: {listed}")

    def _two(self, study: StudyFiles, names: str | tuple[str, str] | None) -> tuple[Parameter, Parameter]:
        if names is None:
            chosen = two_to_show(study, self.files.parameters)
            if chosen is None:
                raise AnalysisError("a contour needs two parameters, and the space has one")
            return chosen
        if isinstance(names, str) or len(names) != 2:
            raise AnalysisError(f"parameter of a contour is a pair of names, got {names!r}")
        return self._parameter(study, names[0]), self._parameter(study, names[1])


def load(storage: str, tune_id: str | None = None, *, options: Options | None = None) -> Tuning:
    """Read a search.

    Args:
        storage: Folder or fsspec URL of the results.
        tune_id: Which one; None takes the only one there is.
        options: How intervals on fresh instances are made.

    Raises:
        AnalysisError: No such storage or search, or several to choose from.
    """
    return Tuning(read_tuning(storage, tune_id), options)
