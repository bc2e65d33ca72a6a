"""What a search sees of its candidates: one score per instance, from predictions on validation. Larger is better.

Under `objective: weak` the columns of ground truth are not even read; neither objective reads predictions on test.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl

from analysis import metrics
from analysis.stopping import Stop, stop_step, weak_labels
from sweep.errors import SweepError
from sweep.plan import Stop as StopName
from sweep.storage.store import Store
from sweep.tuning.block import ORACLE_METRICS

MEANING = {
    "agreement": "share of validation on which the student predicts what its supervisor predicts",
    "weak_log_loss": "minus the cross-entropy of the student against the supervisor's probabilities, in nats",
    "confidence": "mean of max(p, 1 - p) of the student",
    "cross_agreement": "agreement with the supervisors of other rungs below the student, larger ones too, not its own",
    "pgr": "PGR of the mean accuracies over all instances, on validation, against the reference ceiling",
    "accuracy": "accuracy on validation",
    "log_loss": "minus the cross-entropy against ground truth, in nats",
}


class NoGapError(SweepError):
    """PGR has no meaning: the ceilings are not above the supervisors."""


@dataclass(frozen=True)
class Instance:
    """One cell of the grid on which candidates are scored."""

    task: str
    weak: str
    strong: str
    seed: int
    supervisor_id: str
    ceiling_id: str
    others: tuple[str, ...] = ()
    """Supervisors of the other rungs below the strong one, for `cross_agreement`."""

    def __str__(self) -> str:
        return f"{self.task} {self.weak} -> {self.strong} seed {self.seed}"


class Scorer:
    """Scores of students that are done, on instances whose supervisors are."""

    def __init__(self, store: Store, metric: str, instances: Sequence[Instance]) -> None:
        self._store = store
        self._metric = metric
        self.instances = tuple(instances)
        self._accuracy_of = cache(self._accuracy)

    @property
    def reads_ground_truth(self) -> bool:
        return self._metric in ORACLE_METRICS

    @property
    def uses_ceiling(self) -> bool:
        return self._metric == "pgr"

    def score(self, index: int, student_id: str, *, labels_id: str, stop: StopName) -> float:
        """Of the student on the instance of this index; for `pgr` its accuracy, see `value`.

        Args:
            labels_id: The run whose predictions the student learned, which a stop by weak labels asks.
            stop: Which evaluation of the student counts.

        Raises:
            StoreError: Predictions are missing or damaged.
            SweepError: They lack what the metric needs.
        """
        instance = self.instances[index]
        every = self._predictions(student_id)
        labels = weak_labels(self._predictions(labels_id)) if stop == Stop.WEAK.value else None
        rows = _validation(every.filter(pl.col("step") == stop_step(every, Stop(stop), labels)), student_id)
        if self._metric in ("pgr", "accuracy"):
            return metrics.accuracy(rows["gold"].to_numpy(), rows["prediction"].to_numpy())
        if self._metric == "log_loss":
            return -metrics.log_loss(rows["gold"].to_numpy(), self._probabilities(rows, student_id))
        if self._metric == "confidence":
            p = self._probabilities(rows, student_id)
            return float(np.maximum(p, 1 - p).mean())
        if self._metric == "cross_agreement":
            return float(np.mean([self._agreement(rows, other) for other in instance.others]))
        if self._metric == "weak_log_loss":
            return -self._weak_log_loss(rows, instance.supervisor_id, student_id)
        return self._agreement(rows, instance.supervisor_id)

    def value(self, scores: Sequence[float]) -> float:
        """Of the scores of the first instances, or of all: the mean over tasks of each task's mean; for `pgr` the PGR
        of such means.

        Raises:
            NoGapError: PGR where the ceilings are not above the supervisors on validation.
        """
        student = self._mean(scores)
        if not self.uses_ceiling:
            return student
        weak, ceiling = self.gap(len(scores))
        if ceiling <= weak:
            raise NoGapError(
                f"metric pgr: on validation the ceilings of the search ({ceiling:.3f} on average) are not above their "
                f"supervisors ({weak:.3f}), so that PGR has no meaning; use metric: accuracy, or other tune.instances"
            )
        return float(metrics.performance_gap_recovered(weak, student, ceiling))

    def gap(self, n: int | None = None) -> tuple[float, float]:
        """Mean accuracy on validation of supervisors and of ceilings, over the first `n` instances, or all."""
        chosen = self.instances[:n]
        weak = self._mean([self._accuracy_of(i.supervisor_id) for i in chosen])
        return weak, self._mean([self._accuracy_of(i.ceiling_id) for i in chosen])

    @property
    def n_examples(self) -> int:
        """Validation examples behind each score; of the first supervisor's task."""
        return _validation(_final(self._predictions(self.instances[0].supervisor_id)), "").height

    def _mean(self, scores: Sequence[float]) -> float:
        by_task: dict[str, list[float]] = {}
        for instance, score in zip(self.instances, scores, strict=False):
            by_task.setdefault(instance.task, []).append(score)
        return float(np.mean([np.mean(found) for found in by_task.values()]))

    def _accuracy(self, run_id: str) -> float:
        rows = _validation(_final(self._predictions(run_id)), run_id)
        return metrics.accuracy(rows["gold"].to_numpy(), rows["prediction"].to_numpy())

    def _agreement(self, rows: pl.DataFrame, supervisor_id: str) -> float:
        joined = rows.join(weak_labels(self._predictions(supervisor_id)), on="example_id", how="inner")
        if joined.is_empty():
            raise SweepError(f"{supervisor_id} labels none of the validation examples that students are judged on")
        return float((joined["prediction"] == joined["label"]).mean())  # type: ignore[arg-type]

    def _weak_log_loss(self, rows: pl.DataFrame, supervisor_id: str, student_id: str) -> float:
        self._probabilities(rows, student_id)  # refuses answers in words
        weak = _validation(_final(self._predictions(supervisor_id)), supervisor_id)
        soft = pl.coalesce(pl.col("p").fill_nan(None), pl.col("prediction").cast(pl.Float32))
        joined = rows.join(weak.select("example_id", w=soft), on="example_id", how="inner").drop_nulls("w")
        p = np.clip(self._probabilities(joined, student_id), metrics.LOG_LOSS_CLIP, 1 - metrics.LOG_LOSS_CLIP)
        w = joined["w"].to_numpy().astype(np.float64)
        return float(-np.mean(w * np.log(p) + (1 - w) * np.log1p(-p)))

    def _probabilities(self, rows: pl.DataFrame, run_id: str) -> np.ndarray:
        p = rows["p"].fill_nan(None)
        if p.null_count():
            raise SweepError(f"metric {self._metric} needs probabilities, and {run_id} has none; use another metric")
        return p.to_numpy().astype(np.float64)

    def _predictions(self, run_id: str) -> pl.DataFrame:
        columns = ["example_id", "split", "step", "prediction", "p"]
        if self.reads_ground_truth:
            columns.append("gold")
        rows = pl.read_parquet(io.BytesIO(self._store.read(run_id, "predictions.parquet")), columns=columns)
        if rows.schema["prediction"] == pl.String:  # answers in words are equal if they are but for white space around
            texts = [name for name in ("prediction", "gold") if name in columns]
            rows = rows.with_columns(pl.col(texts).fill_null("").str.strip_chars())
        if not self.reads_ground_truth:
            return rows
        return rows.with_columns(gold=pl.when(pl.col("split") == "validation").then(pl.col("gold")))


def _final(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("step") == pl.col("step").max())


def _validation(rows: pl.DataFrame, run_id: str) -> pl.DataFrame:
    rows = rows.filter(pl.col("split") == "validation").sort("example_id")
    if rows.is_empty():
        raise SweepError(f"{run_id} has no predictions on validation, which the search looks at")
    return rows
