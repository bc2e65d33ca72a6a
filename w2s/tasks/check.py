"""A look at a task before anything is trained on it: `w2s tasks check`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from w2s.config import CatalogueTask, ChessTask, Form, ModelSource, TaskSpec
from w2s.tasks import from_rows, read_rows
from w2s.tasks.base import CONTENT_COLUMNS, TaskData, TaskSummary, summarise
from w2s.tasks.build import SourceRows, row_id, row_keys
from w2s.tasks.catalogue import Dataset, find_dataset
from w2s.tasks.splits import group_rows

QUANTILES = (0.5, 0.9, 0.99, 1.0)
TURNS = ("\n\nAssistant:", "<|assistant|>", "<|im_start|>assistant", "### Response:", "[/INST]")
"""What the last turn of a conversation begins with, in common formats."""


@dataclass(frozen=True)
class Conversations:
    """Pairs without prompts that have one in common all the same."""

    separator: str
    """What the last turn begins with: `prompt_separator` would tell the prompt from the reply."""
    share: float
    """Of the pairs, as a fraction, how many begin alike up to it."""


@dataclass(frozen=True)
class TaskCheck:
    """What there is to say of a task."""

    spec: TaskSpec
    entry: Dataset | None
    """Of the catalogue, for tasks of it."""
    origin: str
    read: Mapping[str, int]
    """Rows of the source by split."""
    data: TaskData
    summary: TaskSummary
    paper: str | None
    """How many examples Burns et al. 2023 had, in words, where they say."""
    examples: Sequence[tuple[int | None, Mapping[str, Any]]]
    """Two examples: the label, None where there are none, and the content; one of each label."""
    shared_with_test: Mapping[str, int]
    """Rows of the source's train split that share something with its test split, by what: text, prompt, passage, ..."""
    groups_in_two_parts: int
    """Groups of related rows of which two parts have some; a fault of ours if there are any."""
    conversations: Conversations | None = None
    """`compare`: the pairs are whole conversations, of which nothing says what the prompt is."""


@dataclass(frozen=True)
class TokenLengths:
    """Tokens of what one model reads of a task; of `generate` these are the prompts."""

    model: str
    examples: int
    quantiles: Mapping[str, Mapping[float, int]]
    """Of "texts", and for `compare` (where a text is a prompt with one of its replies) of "prompts" and "replies"."""
    max_length: int
    """Tokens that are kept, of `generate` with the answer: the setting, or what the model has positions for."""
    limited_by_model: bool
    room: int
    """`generate`: tokens that are kept free for the answer and its end; otherwise 0."""
    cut: int
    """Examples that lose tokens: of `classify` the end, of the others the beginning of the prompt, of `compare` as much
    for one reply as for the other."""
    without_prompt: int
    """`compare`: pairs with a reply that leaves no room for the prompt."""
    cut_replies: int
    """`compare`: pairs with a reply that is longer by itself, so that it loses tokens as well."""


def check_task(spec: TaskSpec) -> TaskCheck:
    """Load a task and look at it.

    Raises:
        DataError: It cannot be loaded.
    """
    rows = read_rows(spec)
    data = from_rows(spec, rows)
    entry = find_dataset(spec.dataset) if isinstance(spec, CatalogueTask) else None
    return TaskCheck(
        spec=spec,
        entry=entry,
        origin=rows.origin,
        read=rows.read,
        data=data,
        summary=summarise(data),
        paper=_in_the_paper(spec, entry),
        examples=_two(data),
        shared_with_test=_shared(spec.form, rows),
        groups_in_two_parts=_straddling(spec.form, rows, data),
        conversations=conversations(data),
    )


def token_lengths(
    data: TaskData, model: ModelSource, max_length: int, *, max_new_tokens: int | None = None
) -> TokenLengths:
    """Tokens of a task's texts under a model's tokenizer, uncut.

    Args:
        data: The task.
        model: Whose tokenizer.
        max_length: Tokens to keep of a text, if the model has positions for them.
        max_new_tokens: Of an answer, as the task says; None: as the longest needs.

    Raises:
        ModelError: The model or its tokenizer cannot be read.
    """
    from w2s.data import tokenise
    from w2s.models import load_checkpoint_sizes, load_tokenizer

    tokenizer = load_tokenizer(model)
    positions = load_checkpoint_sizes(model).max_positions
    bound = min(max_length, positions or max_length)

    def lengths_of(form: Form, frame: pl.DataFrame) -> np.ndarray:
        return tokenise(TaskData(form, frame, {}), tokenizer, 2**31 - 1).lengths

    lengths = {"texts": lengths_of(data.form, data.frame)}
    longest, replies = lengths["texts"], np.zeros(data.frame.height)
    room = 0
    if data.form == "generate":
        from w2s.answering import room_for

        room = room_for(tokenizer, data.frame["answer"].to_list(), wanted=max_new_tokens)
    if data.form == "compare":
        lengths["replies"] = lengths_of("compare", data.frame.with_columns(prompt=pl.lit("")))
        longest, replies = (lengths[of].reshape(-1, 2).max(axis=1) for of in ("texts", "replies"))
        prompts = data.frame.filter(pl.col("prompt") != "").select(text="prompt")
        if prompts.height:
            lengths["prompts"] = lengths_of("classify", prompts)
    return TokenLengths(
        model=model.path,
        examples=data.frame.height,
        quantiles={
            of: {q: int(np.quantile(values, q, method="higher")) for q in QUANTILES} for of, values in lengths.items()
        },
        max_length=bound,
        limited_by_model=bound < max_length,
        room=room,
        cut=int((longest > bound - room).sum()),
        without_prompt=int(((replies >= bound) & (longest > replies)).sum()),
        cut_replies=int((replies > bound).sum()),
    )


def conversations(data: TaskData) -> Conversations | None:
    """Whether most pairs are whole conversations that begin alike, though the task has no prompts."""
    if data.form != "compare" or (data.frame["prompt"] != "").any():
        return None
    shown = data.frame.select("first", "second").rows()
    found = {turn: sum(_share_a_prompt(first, second, turn) for first, second in shown) for turn in TURNS}
    separator, n = max(found.items(), key=lambda item: item[1])
    return Conversations(separator, n / len(shown)) if 2 * n > len(shown) else None


def _share_a_prompt(first: str, second: str, separator: str) -> bool:
    (prompt, turn, _), (other, _, _) = first.rpartition(separator), second.rpartition(separator)
    return bool(turn) and prompt == other and separator in second


def _in_the_paper(spec: TaskSpec, entry: Dataset | None) -> str | None:
    """From the text of Burns et al. 2023, which gives sizes for SciQ and for chess only."""
    if isinstance(spec, ChessTask):
        return "50,000 puzzles for the supervisor, another 50,000 for each student, and 5,000 to test"
    return f"about {entry.paper_examples:,}" if entry and entry.paper_examples else None


def _two(data: TaskData) -> Sequence[tuple[int | None, Mapping[str, Any]]]:
    """Of the part that supervisors are trained on, the first example of each label, or the first two."""
    part = data.part("supervise")
    columns = [*CONTENT_COLUMNS[data.form], *({"tags"} & set(part.columns))]
    if data.form == "generate":
        return [(None, row) for row in part.head(2).select(columns).to_dicts()]
    firsts = (part.filter(pl.col("label") == label).head(1).select(columns).to_dicts() for label in (0, 1))
    return [(label, row) for label, rows in enumerate(firsts) for row in rows]


def _shared(form: Form, rows: SourceRows) -> Mapping[str, int]:
    in_test = {key for row in rows.test or [] for key in row_keys(form, row)}
    count: Counter[str] = Counter()
    for row in rows.pool:
        count.update({key.partition(":")[0] for key in row_keys(form, row) & in_test})
    return dict(sorted(count.items()))


def _straddling(form: Form, rows: SourceRows, data: TaskData) -> int:
    everything = [*rows.pool, *(rows.test or [])]
    groups = group_rows([row_keys(form, row) for row in everything])
    part_of = dict(data.frame.select("example_id", "part").iter_rows())
    test_only = len(rows.pool)
    parts: dict[int, set[str]] = {}
    for i, (group, row) in enumerate(zip(groups.tolist(), everything, strict=True)):
        part = part_of.get(row_id(form, row))
        # A row of the pool that touches the test may have the id of an example of the test: it is not in it itself.
        if part is not None and not (rows.test is not None and i < test_only and part == "test"):
            parts.setdefault(group, set()).add(part)
    return sum(len(of) > 1 for of in parts.values())
