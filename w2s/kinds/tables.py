"""Runs that only compute on tables: labels made from the predictions of other runs (`w2s.labelling`)."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from w2s.activations import load_activations
from w2s.config import LabelsRun, TaskSpec
from w2s.data import attach_weak_labels, gold_of, load_examples
from w2s.errors import DataError
from w2s.kinds.answer_tables import answers_labels
from w2s.kinds.common import Inputs, RunResult, history_of, metrics_of
from w2s.labelling.controls import control_labels
from w2s.labelling.difficulty import difficulty, easy_rows
from w2s.labelling.ensembles import average, vote
from w2s.labelling.filters import (
    knn_filter,
    knn_relabel,
    most_confident,
    probe_filter,
    probe_relabel,
    random_rows,
    topological,
)
from w2s.predict import labels_table
from w2s.seeds import Role, stream


@dataclass(frozen=True)
class Part:
    """The examples of one part without tokens, sorted by id."""

    ids: np.ndarray
    """str objects, shape [examples]."""
    gold: np.ndarray
    """True labels, int8, or for `generate` answers, str objects; shape [examples]."""
    texts: list[str]
    """For `compare`, prompt with both replies; for `generate`, prompts."""

    def __len__(self) -> int:
        return len(self.ids)

    def without(self, ids: Collection[str]) -> "Part":
        """These examples but for some.

        Raises:
            DataError: None is left.
        """
        kept = [i for i, example_id in enumerate(self.ids) if example_id not in ids]
        if not kept:
            raise DataError(f"none of the {len(self)} examples to learn from has a label")
        return Part(self.ids[kept], self.gold[kept], [self.texts[i] for i in kept])


def examples_of(task: TaskSpec) -> dict[str, Part]:
    """Every part of a task that runs predict: all but `supervise`."""
    data = load_examples(task)
    content = {"classify": ["text"], "compare": ["prompt", "first", "second"], "generate": ["prompt"]}[data.form]
    parts = {}
    for name in data.frame["part"].unique().sort():
        if name != "supervise":
            rows = data.part(name).sort("example_id")
            parts[name] = Part(
                rows["example_id"].to_numpy(),
                gold_of(rows, data.form),
                rows.select(pl.concat_str(content)).to_series().to_list(),
            )
    return parts


@dataclass(frozen=True)
class _Given:
    """What an operation sees of one part."""

    name: str
    part: Part
    p: Mapping[str, np.ndarray]
    """P(class 1) by role of the parent, float32, shape [examples]."""
    features: np.ndarray | None
    """The student's activations, shape [examples, D]."""
    rng: np.random.Generator
    form: str
    is_train: bool
    """Whether the student learns from this part; what a filter takes out is taken from there only."""

    @property
    def members(self) -> np.ndarray:
        """P(class 1) by the members, float32, shape [members, examples]."""
        roles = sorted((r for r in self.p if r.startswith("member/")), key=lambda r: int(r.split("/")[1]))
        return np.stack([self.p[role] for role in roles])


def run_labels(spec: LabelsRun, inputs: Inputs) -> RunResult:
    """Labels of all parts that runs predict; null on rows that students are not to learn from."""
    if spec.task.form == "generate":
        return answers_labels(spec, inputs, examples_of(spec.task))
    operation = _OPERATIONS[spec.operation.name]
    activations = load_activations(inputs.activations_dir) if inputs.activations_dir else None
    splits = examples_of(spec.task)
    labels = {}
    for index, (name, part) in enumerate(splits.items()):
        given = _Given(
            name=name,
            part=part,
            p={role: attach_weak_labels(part, frame) for role, frame in inputs.predictions.items()},
            features=activations.of(name).features if activations else None,
            rng=stream(spec.seed, Role.LABELS, index),
            form=spec.task.form,
            is_train=name == spec.train_part,
        )
        labels[name] = operation(given, spec.operation.params)
    return RunResult(metrics=metrics_of(), history=history_of([]), predictions=labels_table(labels, splits))


def _ensemble(given: _Given, params: Mapping[str, Any]) -> np.ndarray:
    return average(given.members) if params["rule"] == "average" else vote(given.members)


def _control(given: _Given, params: Mapping[str, Any]) -> np.ndarray:
    return control_labels(
        params["errors"],
        gold=given.part.gold,
        weak_p=given.p["supervisor"],
        lengths=np.array([len(text) for text in given.part.texts]),
        strong_p=given.p.get("reference"),
        rng=given.rng,
    )


def _filter(given: _Given, params: Mapping[str, Any]) -> np.ndarray:
    p = given.p["supervisor"]
    if not given.is_train:
        return p
    if params["by"] == "random":
        return random_rows(p, keep=params["keep"], rng=given.rng)
    if params["by"] == "confidence":
        return most_confident(p, keep=params["keep"])
    features = given.features
    assert features is not None, "the plan gives these filters activations"
    probe = {"intercept": given.form == "classify"}
    if params["relabel"]:
        if params["by"] == "knn":
            return knn_relabel(p, features, k=params["k"])
        return probe_relabel(p, features, penalty=params["penalty"], **probe)
    drop = 1 - params["keep"]
    if params["by"] == "knn":
        return knn_filter(p, features, k=params["k"], drop=drop)
    if params["by"] == "topological":
        return topological(p, features, k=params["k"], drop=drop)
    return probe_filter(p, features, drop=drop, penalty=params["penalty"], **probe)


def _easy_to_hard(given: _Given, params: Mapping[str, Any]) -> np.ndarray:
    """Ground truth of the chosen rows; of validation the whole truth, of test what the weak model says."""
    gold = given.part.gold.astype(np.float32)
    if not given.is_train:
        return given.p["supervisor"] if given.name == "test" else gold
    level = difficulty((given.members > 0.5) == given.part.gold)
    rows = max(1, round(params["share"] * len(gold)))
    match params["rows"]:
        case "easy":
            chosen = easy_rows(level, up_to=params["up_to"], rows=rows, rng=given.rng)
        case "hard":  # the same with difficulty upside down
            chosen = easy_rows(-level, up_to=-params["up_to"] - 1, rows=rows, rng=given.rng)
        case _:
            chosen = easy_rows(level, up_to=len(given.members), rows=rows, rng=given.rng)
    return np.where(chosen, gold, np.float32(np.nan))


_OPERATIONS: Mapping[str, Callable[[_Given, Mapping[str, Any]], np.ndarray]] = {
    "ensemble": _ensemble,
    "control": _control,
    "filter": _filter,
    "easy_to_hard": _easy_to_hard,
}
