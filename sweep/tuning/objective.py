"""What a search sees of its candidates: one score per instance, from predictions on validation. Larger is better.

Under `objective: weak` the columns of ground truth are not even read; neither objective reads predictions on test.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import polars as pl

from analysis import metrics
from analysis.stopping import Stop, stop_step, weak_labels
from sweep.errors import SweepError
from sweep.plan import Stop as StopName
from sweep.store import Store

Objective = Literal["weak", "oracle"]
METRICS: Mapping[Objective, tuple[str, ...]] = {
    "weak": ("agreement", "weak_log_loss", "confidence", "cross_agreement"),
    "oracle": ("pgr", "accuracy", "log_loss"),
}
"""The first is the default."""
MEANING = {
    "agreement": "share of validation on which the student predicts what its supervisor predicts",
    "weak_log_loss": "minus the cross-entropy of the student against the supervisor's probabilities, in nats",
    "confidence": "mean of max(p, 1 - p) of the student",
    "cross_agreement": "agreement with the supervisors of the other rungs below the student, not with its own",
    "pgr": "PGR of the mean accuracies on validation, against the reference ceiling",
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
        return self._metric in METRICS["oracle"]

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
        """Of the scores of the first instances, or of all: the mean over tasks of each task's mean; for `pgr` the mean
        of each task's PGR of mean accuracies.

        Raises:
            NoGapError: PGR where the ceilings are not above the supervisors on validation.
        """
        by_task: dict[str, list[int]] = {}
        for index, instance in enumerate(self.instances[: len(scores)]):
            by_task.setdefault(instance.task, []).append(index)
        return float(np.mean([self._value(task, found, scores) for task, found in by_task.items()]))

    def _value(self, task: str, indices: Sequence[int], scores: Sequence[float]) -> float:
        student = float(np.mean([scores[i] for i in indices]))
        if not self.uses_ceiling:
            return student
        weak = float(np.mean([self._accuracy_of(self.instances[i].supervisor_id) for i in indices]))
        ceiling = float(np.mean([self._accuracy_of(self.instances[i].ceiling_id) for i in indices]))
        if ceiling <= weak:
            raise NoGapError(
                f"tune: on the validation part of task '{task}' the ceilings of the search ({ceiling:.3f} on average) "
                f"are not above their supervisors ({weak:.3f}), so that PGR has no meaning; use metric: accuracy, or "
                "other tune.instances"
            )
        return float(metrics.performance_gap_recovered(weak, student, ceiling))

    def _accuracy(self, run_id: str) -> float:
        rows = _validation(_final(self._predictions(run_id)), run_id)
        return metrics.accuracy(rows["gold"].to_numpy(), rows["prediction"].to_numpy())

    def _agreement(self, rows: pl.DataFrame, supervisor_id: str) -> float:
        joined = rows.join(weak_labels(self._predictions(supervisor_id)), on="example_id", how="inner")
        if joined.is_empty():
            raise SweepError(
                f"tune: {supervisor_id} labels none of the validation examples that students are judged on"
            )
        return float((joined["prediction"] == joined["label"]).mean())  # type: ignore[arg-type]

    def _weak_log_loss(self, rows: pl.DataFrame, supervisor_id: str, student_id: str) -> float:
        weak = _validation(_final(self._predictions(supervisor_id)), supervisor_id)
        soft = pl.coalesce(pl.col("p").fill_nan(None), pl.col("prediction").cast(pl.Float32))
        joined = rows.join(weak.select("example_id", w=soft), on="example_id", how="inner").drop_nulls("w")
        p = np.clip(self._probabilities(joined, student_id), metrics.LOG_LOSS_CLIP, 1 - metrics.LOG_LOSS_CLIP)
        w = joined["w"].to_numpy().astype(np.float64)
        return float(-np.mean(w * np.log(p) + (1 - w) * np.log1p(-p)))

    def _probabilities(self, rows: pl.DataFrame, run_id: str) -> np.ndarray:
        p = rows["p"].fill_nan(None)
        if p.null_count():
            raise SweepError(
                f"tune: metric {self._metric} needs probabilities, and {run_id} has none; use another metric"
            )
        return p.to_numpy().astype(np.float64)

    def _predictions(self, run_id: str) -> pl.DataFrame:
        columns = ["example_id", "split", "step", "prediction", "p"]
        if self.reads_ground_truth:
            columns.append("gold")
        return pl.read_parquet(io.BytesIO(self._store.read(run_id, "predictions.parquet")), columns=columns)


def _final(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("step") == pl.col("step").max())


def _validation(rows: pl.DataFrame, run_id: str) -> pl.DataFrame:
    rows = rows.filter(pl.col("split") == "validation").sort("example_id")
    if rows.is_empty():
        raise SweepError(f"tune: {run_id} has no predictions on validation, which the search looks at")
    return rows
