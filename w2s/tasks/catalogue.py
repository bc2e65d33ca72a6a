"""What the catalogue knows of a dataset: where it lies, what its rows become, what ties them together.

An entry is data and one pure function from a row, in the dataset's own columns, to an example. Entries stand in `nlp`,
`preference` and `safety`; `CATALOGUE` has them all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from w2s.config import Form, Metric
from w2s.tasks.tables import nearest

CATALOGUE_VERSION = 1
"""Part of the fingerprint of every task of the catalogue; raise it when examples change for the same source. A change
of one entry raises its own `version`."""

CONVERTED = "refs/convert/parquet"
"""The branch on which the hub keeps a converted copy of a dataset."""


@dataclass(frozen=True)
class Statement:
    """A row that is a text with a label."""

    text: str
    label: int
    groups: tuple[str, ...] = ()
    """Keys such as "passage:...": rows with an equal one never lie in two parts."""


@dataclass(frozen=True)
class Question:
    """A row that is a question with several answers; an example shows one of them, between `before` and `after`."""

    before: str
    options: tuple[str, ...]
    right: int | None
    """Which option is right; None if the right one cannot be shown."""
    groups: tuple[str, ...] = ()
    after: str = ""
    barred: tuple[int, ...] = ()
    """Options that are never shown."""


@dataclass(frozen=True)
class Pair:
    """A row that is two replies to one prompt, one of them preferred."""

    prompt: str
    chosen: str
    rejected: str
    groups: tuple[str, ...] = ()


Converted = Statement | Question | Pair
Record = Mapping[str, Any]


class LeftOut(Exception):
    """Raised by a formatter for a row that is no example; the argument is the reason, as in `base.REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Place:
    """A hub repository that holds a dataset, and how it is loaded.

    `native`: by its configurations. `converted`: a repository whose main branch is a script, which nobody runs any
    more; its converted branch has a folder per configuration, and one is named as `data_dir` (a configuration's name
    is refused there). `pull`: the branch of an unmerged pull request that converts it.
    """

    id: str
    form: Literal["native", "converted", "pull"] = "native"
    config: str | None = None
    data_dir: str | None = None
    branch: str | None = None
    test: str | None = None
    """What the dataset's test split is called there, if otherwise than elsewhere."""
    checked: bool = True
    """Whether it was seen in a primary source that this place loads in this way."""

    @property
    def revision(self) -> str | None:
        """The branch to read; None for main."""
        return self.branch or (CONVERTED if self.form == "converted" else None)


@dataclass(frozen=True)
class Layout:
    """Another form in which a dataset is published: its columns, and how a row becomes one in the usual columns."""

    columns: tuple[str, ...]
    adapt: Callable[[Record], Record]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """An entry of the catalogue."""

    key: str
    about: str
    """What is asked, in a few words."""
    label_1: str
    """What label 1 means."""
    kind: Literal["binary", "choice", "pair"]
    columns: tuple[str, ...]
    content: tuple[str, ...]
    """Columns that an example shows; labels, answer keys and numbers are others."""
    convert: Callable[[Record], Converted]
    """One row to an example. Raises `LeftOut`, or DataError for a cell that cannot be used."""
    group: str
    """What ties rows together, in words."""
    places: tuple[Place, ...] = ()
    """The first is the usual one."""
    train: tuple[str, ...] = ("train",)
    """Splits of the source that are trained on, together."""
    test: str | None = "test"
    """The source's split for testing; None: there is none, and one is split off."""
    test_otherwise: str | None = None
    """What that split is called in copies that have no split of that name."""
    not_test: tuple[int, str] | None = None
    """Rows by which the wrong split for testing is recognised, and what is wrong with it."""
    rows: tuple[int | None, int | None] = (None, None)
    """Published rows of train and test."""
    paper: bool = False
    """Whether it is one of the 22 of Burns et al. 2023."""
    paper_examples: int | None = None
    """Examples that the paper reports, where it does."""
    layouts: tuple[Layout, ...] = ()
    headerless: tuple[str, ...] | None = None
    """Columns of CSV and TSV copies that have no header."""
    line_aligned: bool = False
    """Whether copies may be pairs of line-aligned files, SPLIT_text.txt and SPLIT_labels.txt."""
    subfolders: tuple[str, ...] = ()
    """Folders whose files together make up a split."""
    unsafe_label: int | None = None
    """Which class is the harmful one, of safety and toxicity datasets."""
    metrics: tuple[Metric, ...] = ()
    """What a report scores beside accuracy."""
    get_it: str | None = None
    """How to get the files of a dataset that is on no hub."""
    note: str = ""
    version: int = 1

    @property
    def form(self) -> Form:
        return "compare" if self.kind == "pair" else "classify"

    def place(self, id: str | None = None) -> Place | None:
        """The hub repository of that id, or the usual one; None if there is none."""
        return next((place for place in self.places if id in (None, place.id)), None)


@cache
def _catalogue() -> Mapping[str, Dataset]:
    from w2s.tasks import nlp, preference, safety  # which read this module

    return {entry.key: entry for entry in (*nlp.ENTRIES, *preference.ENTRIES, *safety.ENTRIES)}


def datasets() -> Mapping[str, Dataset]:
    """All entries by key, those of the paper first."""
    return _catalogue()


def find_dataset(name: Any) -> Dataset | None:
    """The entry of a name; "-" and "_" are the same, and case does not matter."""
    if not isinstance(name, str):
        return None
    return {_plain(key): entry for key, entry in _catalogue().items()}.get(_plain(name))


def unknown_dataset(name: str) -> str:
    """What to say of a name that is none."""
    return f"there is no dataset {name!r}{nearest(name, _catalogue())} (w2s tasks lists them)"


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
