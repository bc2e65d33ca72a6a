"""Labels of form `generate` that are made from other runs' completions: filters and votes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from w2s.config import LabelsRun
from w2s.data import attach_weak_answers
from w2s.errors import DataError
from w2s.kinds.common import Inputs, RunResult, history_of, metrics_of
from w2s.predict import answers_table
from w2s.seeds import Role, stream

if TYPE_CHECKING:
    from w2s.kinds.tables import Part


def answers_labels(spec: LabelsRun, inputs: Inputs, splits: "Mapping[str, Part]") -> RunResult:
    """Answers to all parts that runs predict; null on rows that students are not to learn from."""
    said: list[tuple[int, str, Sequence[str | None], None]] = []
    for index, (name, part) in enumerate(splits.items()):
        if spec.operation.name == "ensemble":
            roles = sorted((r for r in inputs.predictions if r.startswith("member/")), key=lambda r: int(r[7:]))
            answers = vote([attach_weak_answers(part, inputs.predictions[role]) for role in roles])
        elif spec.operation.name == "filter":
            answers = attach_weak_answers(part, inputs.predictions["supervisor"])
            if name == spec.train_part:
                by, keep = spec.operation.params["by"], spec.operation.params["keep"]
                order = (
                    stream(spec.seed, Role.LABELS, index).permutation(len(part))
                    if by == "random"
                    else np.argsort(-_log_prob(part, inputs.predictions["supervisor"]), kind="stable")
                )
                answers = keep_first(answers, order, keep=keep)
            else:  # what is only compared with keeps its blanks
                answers = [answer or "" for answer in answers]
        else:
            raise ValueError(f"{spec.operation.name} does not make labels for tasks of form generate")
        said.append((0, name, answers, None))
    return RunResult(metrics=metrics_of(), history=history_of([]), predictions=answers_table(said, splits))


def vote(members: Sequence[Sequence[str | None]]) -> list[str]:
    """The answer that most members give to each prompt, white space around it aside.

    Of several with equally many votes, the one that the last of the members among them gives: members come smallest
    first. Silence counts only where all are silent.

    Args:
        members: Each member's answers, in the same order of prompts; None or blank where it has none.
    """
    elected = []
    for answers in zip(*members, strict=True):
        given = [answer for answer in answers if answer is not None and answer.strip()]
        votes = Counter(answer.strip() for answer in given)
        most = max(votes.values(), default=0)
        elected.append(next((answer for answer in reversed(given) if votes[answer.strip()] == most), ""))
    return elected


def keep_first(answers: Sequence[str | None], order: np.ndarray, *, keep: float) -> list[str | None]:
    """A share of the answers that there are, by an order of preference; None for the others.

    Args:
        answers: None where there is none, which is none of those kept.
        order: Positions, the ones to be kept first, shape [answers].
        keep: Share of the answers that there are; at least one is kept.
    """
    there = [int(i) for i in order if answers[i] is not None]
    kept = set(there[: max(1, round(keep * len(there)))])
    return [answer if i in kept else None for i, answer in enumerate(answers)]


def _log_prob(part: "Part", labels: pl.DataFrame) -> np.ndarray:
    """How likely the supervisor found its own completions, shape [examples]."""
    known = dict(labels.select("example_id", "log_prob").iter_rows())
    found = [known.get(example_id) for example_id in part.ids]
    if any(value is None for value in found):
        raise DataError(
            "a filter by confidence needs the supervisor's log-probabilities, and what these labels were made from has "
            "none (a vote, or another filter); put the filter inside, or take by: random"
        )
    return np.array(found, dtype=np.float64)
