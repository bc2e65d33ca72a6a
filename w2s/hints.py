"""Labels that are trivial to imitate: every text ends with a sentence that states the weak label.

A control. A student that reads its supervisor's verdict can copy it, and the better it copies, the less of the gap it
recovers: Burns et al. 2023, Appendix E.3, find a PGR of about 0.

The sentences belong to one supervisor, and evaluation parts carry them as well: the student must be able to copy there.
"""

from collections.abc import Collection, Mapping

import polars as pl

from w2s.config import Form, TaskSpec
from w2s.errors import DataError
from w2s.fingerprints import digest
from w2s.tasks.base import TaskData

Sentences = tuple[str, str]
"""What is said of class 0 and of class 1; for `compare`, of the reply that is not preferred and of the one that is."""

HINTS_VERSION = 1
"""Part of every hints' fingerprint; raise it when a change here gives other texts for the same labels."""

SENTENCES: dict[Form, Sentences] = {
    "classify": ("I think this is not correct.", "I think this is correct."),
    "compare": ("I think this reply is worse.", "I think this reply is better."),
}
FACTS_SENTENCES: Sentences = ("no", "yes")
"""The facts world has no other words for it; a verdict behind a statement is also what its pretraining reads."""


def default_sentences(task: TaskSpec) -> Sentences:
    """Sentences that a model of this task can read."""
    return FACTS_SENTENCES if task.source == "facts" else SENTENCES[task.form]


def with_hints(
    data: TaskData,
    p: Mapping[str, float],
    *,
    sentences: Sentences | None = None,
    without: Collection[str] = ("supervise",),
) -> TaskData:
    """The task with a sentence behind every text that states the supervisor's prediction.

    For `classify`, the sentence follows the text. For `compare`, one follows each reply: the one that the supervisor
    prefers is said to be better, the other to be worse. Class 1 is predicted where p exceeds 1/2. Ids, labels, parts
    and the order of rows stay, so that labels and predictions find their examples as before; an id is then no longer
    the hash of the text.

    Sentences stand at the end, where `classify` texts lose tokens to a length limit: tokenise with the end kept.

    Args:
        data: The task.
        p: The supervisor's P(class 1) by example id; ids of other examples are ignored.
        sentences: What to say; None for the sentences of ordinary text. Closed vocabularies need their own.
        without: Parts that stay as they are. A supervisor does not label what it was trained on.

    Raises:
        DataError: An example has no label or one outside [0, 1], or both sentences are the same.
    """
    not_preferred, preferred = sentences or SENTENCES[data.form]
    if not_preferred.strip() == preferred.strip():
        raise DataError(f"both sentences are {preferred!r}, which states no label: there must be one for each class")
    labels = _labels(data, p, without)
    frame = data.frame.with_columns(_says_1=pl.Series(labels, dtype=pl.Boolean))

    def followed_by(column: str, of_0: str, of_1: str) -> pl.Expr:
        says_1, text = pl.col("_says_1"), pl.col(column)
        sentence = pl.when(says_1).then(pl.lit(f" {of_1}")).otherwise(pl.lit(f" {of_0}"))
        return pl.when(says_1.is_null()).then(text).otherwise(text + sentence).alias(column)

    if data.form == "classify":
        hinted = [followed_by("text", not_preferred, preferred)]
    else:  # label 1: the second reply is preferred
        hinted = [followed_by("first", preferred, not_preferred), followed_by("second", not_preferred, preferred)]
    return TaskData(data.form, frame.with_columns(hinted).drop("_says_1"), data.dropped)


def hints_fingerprint(
    p: Mapping[str, float], *, sentences: Sentences, without: Collection[str] = ("supervise",)
) -> str:
    """Hash of everything that `with_hints` adds to a task: a part of the key under which hinted tokens are cached.

    Labels that predict the same classes give the same texts, and the same hash.
    """
    predicted = "".join(f"{example_id}{int(p[example_id] > 0.5)}\n" for example_id in sorted(p))
    return digest([HINTS_VERSION, predicted, list(sentences), sorted(without)])


def _labels(data: TaskData, p: Mapping[str, float], without: Collection[str]) -> list[bool | None]:
    """Hardened label of every row of the frame, None where no sentence is to be."""
    labels: list[bool | None] = []
    missing: list[str] = []
    for example_id, part in data.frame.select("example_id", "part").iter_rows():
        if part in without:
            labels.append(None)
            continue
        label = p.get(example_id)
        if label is None or label != label:  # NaN is unequal to itself
            missing.append(example_id)
        elif not 0 <= label <= 1:
            raise DataError(f"weak label of example {example_id} is {label:g}, which is no probability in [0, 1]")
        else:
            labels.append(bool(label > 0.5))
    if missing:
        first = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{len(missing)} of {data.frame.height} examples have no weak label to state, the first: {first}; the "
            "supervisor's predictions must come from the same task and splits, and cover all parts but "
            f"{', '.join(sorted(without)) or 'none'}"
        )
    return labels
