"""Pairs of replies of which one is preferred: reward modelling."""

from w2s.tasks import cells
from w2s.tasks.catalogue import Converted, Dataset, LeftOut, Pair, Place, Record

TURN = "\n\nAssistant:"
"""What the last turn of an HH transcript begins with."""


def _hh(row: Record) -> Converted:
    chosen, rejected = cells.text(row, "chosen"), cells.text(row, "rejected")
    if not chosen.strip() or not rejected.strip():
        raise LeftOut("blank")
    (prompt, turn, chosen), (other, other_turn, rejected) = (text.rpartition(TURN) for text in (chosen, rejected))
    if not turn or not other_turn:
        raise LeftOut("no_prompt_separator")
    if prompt != other:  # two conversations; one of both prompts would be shown before a reply to the other
        raise LeftOut("prompts_differ")
    return Pair(prompt + turn, chosen, rejected)


_SUBSETS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")


def _hh_entry(key: str, subset: str | None, rows: tuple[int | None, int | None]) -> Dataset:
    return Dataset(
        key=key,
        about="which reply of an assistant is preferred?" + (f" ({subset})" if subset else ""),
        label_1="the second",
        kind="pair",
        columns=("chosen", "rejected"),
        content=("chosen", "rejected"),
        convert=_hh,
        group="prompt, both replies",
        places=(Place("Anthropic/hh-rlhf", data_dir=subset),),
        rows=rows,
        subfolders=() if subset else _SUBSETS,
        note="" if subset else "all but the red-team attempts",
    )


ENTRIES = (
    _hh_entry("anthropic_hh", None, (160_800, 8552)),
    _hh_entry("anthropic_hh-harmless", "harmless-base", (None, None)),
    _hh_entry("anthropic_hh-helpful", "helpful-base", (43_835, 2354)),
)
