"""What a task is once loaded: binary examples, each in one part."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from w2s.config import Form

CONTENT_COLUMNS: dict[Form, tuple[str, ...]] = {"classify": ("text",), "compare": ("prompt", "first", "second")}


@dataclass(frozen=True)
class TaskData:
    """The examples of a task.

    `frame` has the columns `example_id` (16 hex digits of the SHA-256 of the content), `part` (`supervise`,
    `transfer/0` .. `transfer/K-1`, `validation`, `test`), `label` (Int8, 0 or 1), and the content: `text` for
    `classify`; `prompt`, `first` and `second` for `compare`, where label 1 says that the second reply is preferred and
    a model reads prompt + reply. Rows are sorted by (part, example_id); ids are unique.
    """

    form: Form
    frame: pl.DataFrame
    dropped: Mapping[str, int]
    """How many rows of the source are not examples, by reason."""

    def part(self, name: str) -> pl.DataFrame:
        """The examples of one part, sorted by id.

        Raises:
            KeyError: The task has no such part.
        """
        rows = self.frame.filter(pl.col("part") == name)
        if rows.is_empty():
            raise KeyError(f"no part {name!r}; the parts are {', '.join(self.frame['part'].unique().sort())}")
        return rows


REASONS: Mapping[str, str] = {
    "unlabelled": "without a label",
    "blank": "blank",
    "same_replies": "with two equal replies",
    "prompts_differ": "with two prompts",
    "no_prompt_separator": "without the prompt separator",
    "no_support": "without a supporting passage",
    "no_wrong_choice": "without a wrong choice to show",
    "no_right_choice": "whose right choice is none of the above",
    "beyond_max_rows": "beyond max_rows",
    "related_to_test": "related to the test (same text, prompt, reply or group)",
    "contradicting_labels": "with contradicting labels",
    "duplicates": "duplicates",
    "unbalanced": "of the larger class, to balance",
    "not_needed": "beyond the sizes asked for",
}
"""Why rows are no examples (`TaskData.dropped`), as it is said to people."""


def left_out(dropped: Mapping[str, int]) -> str:
    """For instance "12 duplicates, 3 without a label"; empty if no row was left out."""
    known = [(reason, dropped[reason]) for reason in REASONS if dropped.get(reason)]
    known += [(reason, n) for reason, n in dropped.items() if n and reason not in REASONS]
    return ", ".join(f"{n:,} {REASONS.get(reason, reason)}" for reason, n in known)


@dataclass(frozen=True)
class TaskSummary:
    """What a plan or a report says about a task; every value is JSON-able."""

    form: Form
    sizes: Mapping[str, int]
    """Examples per part."""
    class_balance: Mapping[str, float]
    """Share of label 1 per part."""
    mean_characters: Mapping[str, float]
    """Mean length of what a model reads: the text, or prompt + reply (mean of both replies)."""
    max_bytes: Mapping[str, int]
    """Length of the longest in UTF-8 bytes: an upper bound on its tokens."""
    dropped: Mapping[str, int]


def summarise(data: TaskData) -> TaskSummary:
    """Sizes, class balance and text lengths of a task, per part."""
    if data.form == "classify":
        characters = pl.col("text").str.len_chars().mean()
        longest = pl.col("text").str.len_bytes().max()
    else:
        replies = pl.col("first").str.len_chars() + pl.col("second").str.len_chars()
        characters = (pl.col("prompt").str.len_chars() + replies / 2).mean()
        longer = pl.max_horizontal(pl.col("first").str.len_bytes(), pl.col("second").str.len_bytes())
        longest = (pl.col("prompt").str.len_bytes() + longer).max()
    per_part = (
        data.frame.group_by("part")
        .agg(size=pl.len(), balance=pl.col("label").mean(), characters=characters, longest=longest)
        .sort("part")
    )
    parts = per_part["part"].to_list()
    return TaskSummary(
        form=data.form,
        sizes=dict(zip(parts, per_part["size"].to_list(), strict=True)),
        class_balance=dict(zip(parts, per_part["balance"].to_list(), strict=True)),
        mean_characters=dict(zip(parts, per_part["characters"].to_list(), strict=True)),
        max_bytes=dict(zip(parts, per_part["longest"].to_list(), strict=True)),
        dropped=dict(data.dropped),
    )


def text_id(text: str) -> str:
    """Id of a `classify` example. The label is no part of it, so that a corrected label keeps its id."""
    return _short_hash(["classify", text])


def pair_id(prompt: str, reply: str, other_reply: str) -> str:
    """Id of a `compare` example: the same whichever reply is preferred and in whichever order they are shown."""
    return _short_hash(["compare", prompt, *sorted((reply, other_reply))])


def seeded_hash(seed: int, purpose: str, example_id: str) -> int:
    """A 64-bit number that looks random and depends on nothing but its arguments."""
    text = f"{seed}/{purpose}/{example_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def normalise(text: str) -> str:
    """The text by which rows count as copies of each other: compatibility forms, case and white space ignored."""
    return _SPACES.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


_SPACES = re.compile(r"\s+")


def _short_hash(content: list[str]) -> str:
    # JSON keeps fields apart: ["a", "bc"] and ["ab", "c"] differ. Lone surrogates, legal in JSON files, have no UTF-8.
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
