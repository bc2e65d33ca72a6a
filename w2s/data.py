"""From a task's texts to batches of tokens.

Texts are tokenised once per (task, tokenizer, length) into two flat arrays, cached on disk. Which examples meet in an
optimisation batch depends on their ids and the seed alone, never on a tokenizer or on lengths, so that models of one
ladder see the same batches; lengths only decide how a batch is cut into micro-batches.
"""

import hashlib
import os
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from w2s.caches import RecentlyUsed, appearing_whole
from w2s.config import Form, TaskSpec
from w2s.errors import DataError
from w2s.fingerprints import digest, hash_file
from w2s.flops import Work
from w2s.hints import default_sentences, hints_fingerprint, with_hints
from w2s.seeds import Role, stream
from w2s.tasks import load_task, task_fingerprint
from w2s.tasks.base import TaskData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS_FORMAT = 2
"""Version of the cached token files; a change of layout or of tokenisation raises it."""


class Identified(Protocol):
    """Examples, as far as labels and predictions need to know them: ids and true labels."""

    @property
    def ids(self) -> np.ndarray: ...
    @property
    def gold(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Tokens:
    """Token rows of a task, end to end. `compare` has two rows per example, first and second reply; `generate` one, its
    prompt without the answer."""

    ids: np.ndarray
    """Token ids, int32, shape [all tokens]."""
    offsets: np.ndarray
    """Where rows start, and the end of the last, int64, shape [rows + 1]."""
    cut: np.ndarray
    """Whether a row lost tokens to the length limit, bool, shape [rows]."""

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per row, int64, shape [rows]."""
        return np.diff(self.offsets)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.lengths.max(initial=0))


@dataclass(frozen=True)
class Batch:
    """Padded token rows, as numpy arrays. For `compare`, the rows are all first replies, then all second ones."""

    ids: np.ndarray
    """int64, shape [rows, longest]; arbitrary where padded."""
    lengths: np.ndarray
    """Real tokens per row, int64, shape [rows]."""

    @property
    def is_padded(self) -> bool:
        return bool((self.lengths != self.ids.shape[1]).any())


@dataclass(frozen=True)
class Examples:
    """One part of a task, sorted by example id."""

    form: Form
    ids: np.ndarray
    """Example ids, str objects, shape [examples]."""
    gold: np.ndarray
    """True labels, int8, or for `generate` true answers, str objects, shape [examples]."""
    tokens: Tokens
    rows: np.ndarray
    """Token rows of each example, int64, shape [examples, 1] or, for `compare`, [examples, 2]."""
    lengths: np.ndarray = field(init=False)
    """Longest row of each example in tokens, int64, shape [examples]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", self.tokens.lengths[self.rows].max(axis=1, initial=0))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, positions: np.ndarray, *, length_multiple: int = 1) -> Batch:
        """The token rows of the examples at `positions`, padded on the right to the longest of them.

        Args:
            positions: Which examples, int64, shape [examples of the batch].
            length_multiple: Padded lengths are rounded up to a multiple of this.
        """
        rows = self.rows[positions].T.reshape(-1)
        starts, ends = self.tokens.offsets[rows], self.tokens.offsets[rows + 1]
        lengths = ends - starts
        # Never longer than the longest text there is, which the model is known to have positions for.
        longest = min(-(-int(lengths.max()) // length_multiple) * length_multiple, self.tokens.longest)
        # Padding repeats a row's last token: every index stays valid, and no vocabulary needs a padding token.
        index = np.minimum(starts[:, None] + np.arange(longest), ends[:, None] - 1)
        return Batch(ids=self.tokens.ids[index].astype(np.int64), lengths=lengths)

    def without(self, ids: Collection[str]) -> "Examples":
        """These examples but for some.

        Raises:
            DataError: None is left.
        """
        if not ids:
            return self
        kept = np.array([example_id not in ids for example_id in self.ids], dtype=bool)
        if not kept.any():
            raise DataError(f"none of the {len(self)} examples to learn from has {a_label(self.form)}")
        return Examples(self.form, self.ids[kept], self.gold[kept], self.tokens, self.rows[kept])

    def work(self) -> Work:
        """Tokens of one pass over these examples."""
        lengths = self.tokens.lengths[self.rows]
        return Work(tokens=int(lengths.sum()), squared_lengths=int((lengths**2).sum()), sequences=lengths.size)

    def truncated(self) -> int:
        """How many of these examples lost tokens to the length limit."""
        return int(self.tokens.cut[self.rows].any(axis=1).sum())


@dataclass(frozen=True)
class TokenisedTask:
    """A task with its tokens, ready to be cut into parts."""

    data: TaskData
    tokens: Tokens

    def parts(self) -> list[str]:
        """Names of the parts, sorted."""
        return self.data.frame["part"].unique().sort().to_list()

    def part(self, name: str) -> Examples:
        """The examples of one part, sorted by id.

        Raises:
            DataError: There is no such part, or it is empty.
        """
        frame = self.data.frame.with_row_index("row").filter(pl.col("part") == name).sort("example_id")
        if frame.is_empty():
            raise DataError(f"the task has no part {name!r}; its parts are {', '.join(self.parts())}")
        rows = frame["row"].to_numpy().astype(np.int64)
        rows = np.stack([2 * rows, 2 * rows + 1], axis=1) if self.data.form == "compare" else rows[:, None]
        return Examples(
            form=self.data.form,
            ids=frame["example_id"].to_numpy(),
            gold=gold_of(frame, self.data.form),
            tokens=self.tokens,
            rows=rows,
        )


def a_label(form: Form) -> str:
    """What an example has, in words."""
    return "an answer" if form == "generate" else "a label"


def gold_of(frame: pl.DataFrame, form: Form) -> np.ndarray:
    """The truth of a task's rows, shape [rows]: labels as int8, or for `generate` answers as str objects."""
    if form == "generate":
        return np.array(frame["answer"].to_list(), dtype=object)
    return frame["label"].to_numpy().astype(np.int8)


def attach_weak_answers(examples: Identified, labels: pl.DataFrame) -> list[str | None]:
    """The supervisor's completion for each example, found by id; None where it is blank or was taken out.

    Args:
        examples: What is to be labelled.
        labels: Columns `example_id` and `prediction`; rows of other examples are ignored.

    Raises:
        DataError: An example is not among the labels, or has two different answers.
    """
    answers: dict[str, str | None] = {}
    for example_id, answer in labels.select("example_id", "prediction").unique(maintain_order=True).iter_rows():
        if example_id in answers:
            raise DataError(f"example {example_id} has several weak answers: {answers[example_id]!r} and {answer!r}")
        answers[example_id] = answer
    missing = [example_id for example_id in examples.ids if example_id not in answers]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(examples.ids)} examples have no weak answer, the first: {_first_ids(missing)}; "
            "the supervisor's predictions must come from the same task and splits"
        )
    found = (answers[example_id] for example_id in examples.ids)
    return [answer if answer is not None and answer.strip() else None for answer in found]


def attach_weak_labels(examples: Identified, labels: pl.DataFrame) -> np.ndarray:
    """The supervisor's P(class 1) for each example, found by id; float32, shape [examples].

    Args:
        examples: What is to be labelled.
        labels: Columns `example_id` and `p`; rows of other examples are ignored.

    Raises:
        DataError: An example has no label, or two different ones, or one outside [0, 1].
    """
    wanted = pl.DataFrame({"example_id": examples.ids.tolist()}, schema={"example_id": pl.String})
    found = wanted.join(labels.select("example_id", "p").unique(), on="example_id", how="left", maintain_order="left")
    if found.height != wanted.height:
        twice = found.filter(pl.col("example_id").is_duplicated())["example_id"].unique(maintain_order=True)
        raise DataError(f"{len(twice)} examples have several weak labels, the first: {_first_ids(twice.to_list())}")
    missing = found.filter(pl.col("p").is_null() | pl.col("p").is_nan())["example_id"]
    if len(missing):
        raise DataError(
            f"{len(missing)} of {len(examples.ids)} examples have no weak label, the first: "
            f"{_first_ids(missing.to_list())}; the supervisor's predictions must come from the same task and splits"
        )
    p = found["p"].to_numpy().astype(np.float32)
    if (outside := np.flatnonzero((p < 0) | (p > 1))).size:
        i = outside[0]
        raise DataError(f"weak label of example {examples.ids[i]} is {p[i]:g}, which is no probability in [0, 1]")
    return p


def unlabelled(labels: pl.DataFrame) -> set[str]:
    """Ids of the examples that are there without a label: rows that a filter or a control took out, and for `generate`
    those for which the supervisor found no words."""
    if labels.schema.get("prediction") == pl.String:
        return set(labels.filter(pl.col("prediction").fill_null("").str.strip_chars() == "")["example_id"])
    return set(labels.filter(pl.col("p").is_null())["example_id"])


def load_examples(spec: TaskSpec) -> TaskData:
    """A task's examples, from this process's memory if it has read them before."""
    return _TASKS.get(task_fingerprint(spec, hash_file=hash_once), lambda: load_task(spec))


def load_tokenised(
    spec: TaskSpec,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    cache_dir: Path,
    stated_labels: pl.DataFrame | None = None,
) -> TokenisedTask:
    """A task's examples and tokens, from this process's memory or the disk where they were made before.

    Args:
        stated_labels: Columns `example_id` and `p`: labels that every text but those of `supervise` is to state in a
            sentence at its end (`w2s.hints`). Long texts are then cut on the left, so that the sentence stays.
    """
    data = load_examples(spec)
    task = task_fingerprint(spec, hash_file=hash_once)
    content: list[Any] = [TOKENS_FORMAT, task, tokenizer_fingerprint(tokenizer), max_length, data.form]
    keep_end = data.form != "classify"
    if stated_labels is not None:
        sentences = default_sentences(spec)
        labels = dict(zip(stated_labels["example_id"], stated_labels["p"], strict=True))
        content.append(hints_fingerprint(labels, sentences=sentences))
        data, keep_end = with_hints(data, labels, sentences=sentences), True
    key = digest(content)
    path = cache_dir / "tokens" / f"{key}.npz"
    tokens = _TOKENS.get(key, lambda: _cached_tokens(data, tokenizer, max_length, path, keep_end=keep_end))
    return TokenisedTask(data, tokens)


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hash of everything that decides which tokens a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Slow tokenizers cannot be written to one string; their vocabulary and settings stand for them.
    content = backend.to_str() if backend is not None else repr((sorted(tokenizer.get_vocab().items()), tokenizer))
    return hashlib.sha256(content.encode()).hexdigest()


def tokenise(
    data: TaskData, tokenizer: "PreTrainedTokenizerBase", max_length: int, *, keep_end: bool | None = None
) -> Tokens:
    """Tokens of every example in the order of the frame.

    Longer texts are cut to `max_length` tokens: on the right for `classify`, on the left for the others, where the
    reply or the question stands at the end, or as `keep_end` says. Both texts of a pair lose the same tokens of their
    prompt, as many as the longer one must (`shorten_pair`). Special tokens that the tokenizer puts around a text
    stay; but of a prompt only those in front, as an answer follows.

    Raises:
        DataError: The tokenizer knows none of the words of more than half of the texts.
    """
    keep_end = data.form != "classify" if keep_end is None else keep_end
    prompts: list[str] = data.frame["prompt"].to_list() if data.form != "classify" else []
    if data.form == "compare":
        replies = zip(data.frame["first"].to_list(), data.frame["second"].to_list(), strict=True)
        texts = [prompt + reply for prompt, pair in zip(prompts, replies, strict=True) for reply in pair]
    else:
        texts = prompts if data.form == "generate" else data.frame["text"].to_list()
    encoded = tokenizer(
        texts, truncation=False, padding=False, return_attention_mask=False, return_special_tokens_mask=True,
        verbose=False,
    )  # fmt: skip
    rows: list[Sequence[int]] = encoded["input_ids"]  # pyright: ignore[reportAssignmentType]
    special: list[Sequence[int]] = encoded["special_tokens_mask"]  # pyright: ignore[reportAssignmentType]
    _refuse_empty(texts, rows, special, tokenizer)
    if data.form == "generate":
        for i, flags in enumerate(special):
            kept = len(flags) - _edges(flags)[1]
            rows[i], special[i] = rows[i][:kept], flags[:kept]
    cut = np.array([len(row) > max_length for row in rows], dtype=bool)
    if data.form == "compare":
        cut = np.repeat(cut.reshape(-1, 2).any(axis=1), 2)
        _shorten_pairs(rows, special, np.flatnonzero(cut[::2]), prompts, tokenizer, max_length)
    else:
        for i in np.flatnonzero(cut):
            rows[i] = shorten(rows[i], special[i], max_length, keep_end=keep_end)
    for i, row in enumerate(rows):
        if not row:
            rows[i] = [stand_in_token(tokenizer)]
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    ids = np.fromiter((token for row in rows for token in row), dtype=np.int32, count=int(offsets[-1]))
    return Tokens(ids, offsets, cut)


def _refuse_empty(
    texts: Sequence[str], rows: Sequence[Sequence[int]], special: Sequence[Sequence[int]], tokenizer: Any
) -> None:
    """Models would learn from nothing, and all would look well."""
    unknown = tokenizer.unk_token_id
    empty = [
        i
        for i, (row, flags) in enumerate(zip(rows, special, strict=True))
        if texts[i].strip() and all(flag or token == unknown for token, flag in zip(row, flags, strict=True))
    ]
    if 2 * len(empty) > len(texts):
        raise DataError(
            f"{len(empty):,} of {len(texts):,} texts become no token, or only unknown ones, such as"
            f" {texts[empty[0]][:60]!r}: the tokenizer of {getattr(tokenizer, 'name_or_path', '') or 'the model'}"
            f" ({len(tokenizer):,} tokens) is not the one that its model was trained with, or of another language"
        )


def shorten(row: Sequence[int], special: Sequence[int], max_length: int, *, keep_end: bool) -> Sequence[int]:
    """A row cut to `max_length` tokens, keeping the special tokens in front of and after the text.

    Args:
        row: Token ids.
        special: 1 for each token that the tokenizer added around the text, else 0.
        max_length: At least the number of special tokens plus one, or the special tokens are cut as well.
        keep_end: Cut the text on the left instead of on the right.
    """
    front, back = _edges(special)
    room = max_length - front - back
    if room <= 0:
        return row[:max_length]
    text = row[front : len(row) - back]
    kept = text[len(text) - room :] if keep_end else text[:room]
    return [*row[:front], *kept, *row[len(row) - back :]]


def shorten_pair(
    rows: Sequence[Sequence[int]], special: Sequence[Sequence[int]], prompt: Sequence[int], max_length: int
) -> list[Sequence[int]]:
    """The two rows of a pair, cut to `max_length` tokens, on the left and alike.

    Both lose the first tokens of the prompt, as many as the longer row has to. What is left of it stands before both
    replies: a cut of each row by itself would show more of the prompt before the shorter reply, and so tell a model
    which reply is longer. Replies stay whole until nothing is left of the prompt; then one that is longer by itself
    loses its beginning, and the other stays.

    Args:
        rows: Token ids of prompt and reply, one row for each reply.
        special: 1 for each token that the tokenizer added around a text, else 0.
        prompt: Token ids of the prompt without such tokens. Where a tokenizer joins its end with the beginning of
            a reply into one token, that token counts as the reply's.
        max_length: At least the number of special tokens plus one, or the special tokens are cut as well.
    """
    edges = [_edges(flags) for flags in special]
    if any(max_length <= front + back for front, back in edges):
        return [row[:max_length] for row in rows]
    texts = [row[front : len(row) - back] for row, (front, back) in zip(rows, edges, strict=True)]
    room = [max_length - front - back for front, back in edges]
    too_many = max(0, *(len(text) - space for text, space in zip(texts, room, strict=True)))
    lost = min(too_many, _alike(prompt, *texts))
    return [
        [*row[:front], *text[max(lost, len(text) - space) :], *row[len(row) - back :]]
        for row, text, space, (front, back) in zip(rows, texts, room, edges, strict=True)
    ]


def _edges(special: Sequence[int]) -> tuple[int, int]:
    """How many special tokens stand in front of a text, and how many behind it."""
    front = next((i for i, flag in enumerate(special) if not flag), len(special))
    return front, next((i for i, flag in enumerate(reversed(special)) if not flag), 0)


def _alike(*rows: Sequence[int]) -> int:
    """How many tokens rows have in common at their beginning."""
    shortest = min(map(len, rows))
    same = np.all([np.array(row[:shortest]) == np.array(rows[0][:shortest]) for row in rows], axis=0)
    return shortest if same.all() else int(same.argmin())


def _shorten_pairs(
    rows: list[Sequence[int]], special: list[Sequence[int]], pairs: np.ndarray, prompts: Sequence[str], tokenizer: Any,
    max_length: int,
) -> None:  # fmt: skip
    """Cuts, in place, the rows of the pairs at the positions `pairs`."""
    if not len(pairs):
        return
    encoded = tokenizer(
        [prompts[pair] for pair in pairs], add_special_tokens=False, truncation=False, padding=False,
        return_attention_mask=False, verbose=False,
    )  # fmt: skip
    for pair, prompt in zip(pairs.tolist(), encoded["input_ids"], strict=True):
        of = slice(2 * pair, 2 * pair + 2)
        rows[of] = shorten_pair(rows[of], special[of], prompt, max_length)


@dataclass(frozen=True)
class BatchOrder:
    """Which examples meet in which optimisation batch; a function of the seed and their number alone.

    Examples are sorted by id, so a position stands for an id. The last batch of an epoch may be smaller.
    """

    examples: int
    batch_size: int
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.examples // self.batch_size)

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def positions(self, step: int) -> np.ndarray:
        """Positions of the examples of optimisation step `step`, int64, shape [batch]."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = _epoch_order(self.examples, self.seed, epoch)
        return order[index * self.batch_size : (index + 1) * self.batch_size]


def micro_batches(positions: np.ndarray, lengths: np.ndarray, size: int) -> list[np.ndarray]:
    """Cuts a batch into micro-batches of at most `size` examples, the longest first and apart from the short ones.

    Args:
        positions: Indices into `lengths`, shape [batch].
        lengths: Tokens of every example.
        size: Examples per micro-batch.

    Returns:
        Indices into `positions`, one array per micro-batch.
    """
    if len(positions) <= size:
        return [np.arange(len(positions))] if len(positions) else []
    order = np.argsort(-lengths[positions], kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]


def inference_batches(lengths: np.ndarray, token_budget: int) -> Iterator[np.ndarray]:
    """All examples in batches of similar length, the longest first so that memory runs out at once or never.

    Args:
        lengths: Tokens of every example, shape [examples].
        token_budget: Padded tokens per batch, at most; a batch holds at least one example.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, token_budget // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def clear_caches() -> None:
    """Forgets the tasks and tokens kept for the next run; files on disk stay."""
    _TASKS.clear()
    _TOKENS.clear()


_TASKS: RecentlyUsed[TaskData] = RecentlyUsed(4)
_TOKENS: RecentlyUsed[Tokens] = RecentlyUsed(8)


@lru_cache(maxsize=8)
def _epoch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    return stream(seed, Role.DATA_ORDER, epoch).permutation(examples)


@lru_cache(maxsize=4096)
def _hash_stamped(path: str, size: int, modified: int) -> str:
    return hash_file(Path(path))


def hash_once(path: Path) -> str:
    """A file's hash, computed again only when its size or time has changed."""
    stat = os.stat(path)
    return _hash_stamped(str(path), stat.st_size, stat.st_mtime_ns)


def _cached_tokens(data: TaskData, tokenizer: Any, max_length: int, path: Path, *, keep_end: bool) -> Tokens:
    try:
        with np.load(path) as stored:
            return Tokens(stored["ids"], stored["offsets"], stored["cut"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there, or damaged: a cache may always be made again
    tokens = tokenise(data, tokenizer, max_length, keep_end=keep_end)
    with appearing_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, ids=tokens.ids, offsets=tokens.offsets, cut=tokens.cut)
    return tokens


def stand_in_token(tokenizer: Any) -> int:
    """A token for an empty text, so that there is a last token to read."""
    for token in (tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise DataError("a text is empty, and the tokenizer has no bos or eos token that could stand for it")


def _first_ids(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
