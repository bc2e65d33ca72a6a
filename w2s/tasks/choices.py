"""From what a formatter returns to rows of a task; in particular from questions with several answers to binary rows."""

from w2s.config import Choices
from w2s.tasks.base import normalise, seeded_hash, text_id
from w2s.tasks.build import Row
from w2s.tasks.catalogue import Converted, LeftOut, Pair, Question, Statement


def rows_from(converted: Converted, *, choices: Choices, seed: int, dataset: str) -> list[Row]:
    """The rows of one row of a source.

    Args:
        converted: What a formatter made of it.
        choices: How a question becomes binary.
        seed: The task's split_seed.
        dataset: Keeps the draws of datasets apart.

    Raises:
        LeftOut: It is no example; the reason is an argument of it.
    """
    match converted:
        case Statement():
            if not converted.text.strip():
                raise LeftOut("blank")
            return [Row(text=converted.text, label=converted.label, groups=converted.groups)]
        case Question():
            return _binary(converted, choices, seed, dataset)
        case Pair():
            if not converted.chosen.strip() or not converted.rejected.strip():
                raise LeftOut("blank")
            if converted.chosen == converted.rejected:
                raise LeftOut("same_replies")
            return [
                Row(
                    prompt=converted.prompt,
                    chosen=converted.chosen,
                    rejected=converted.rejected,
                    groups=converted.groups,
                )
            ]


def _binary(question: Question, choices: Choices, seed: int, dataset: str) -> list[Row]:
    """One right and one wrong row, or one of both kinds by a coin.

    Draws depend on the seed, the dataset and the texts of the question and all its options: not on where the row
    stands, on the order of its options, or on which other rows there are.
    """
    shown = [f"{question.before}{option.strip()}{question.after}" for option in question.options]
    right = None if question.right is None else question.options[question.right]
    if right is not None and (not right.strip() or question.right in question.barred):
        raise LeftOut("blank")
    wrong = sorted(
        {
            shown[i]
            for i, option in enumerate(question.options)
            if option.strip() and i not in question.barred and (right is None or normalise(option) != normalise(right))
        }
    )
    if not wrong:
        raise LeftOut("no_wrong_choice")
    row_id = text_id("\n".join(sorted(shown)))
    groups = (*question.groups, f"question:{row_id}")
    no = Row(text=wrong[seeded_hash(seed, f"choice/{dataset}", row_id) % len(wrong)], label=0, groups=groups)
    yes = None if question.right is None else Row(text=shown[question.right], label=1, groups=groups)
    if choices == "expand":
        if yes is None:
            raise LeftOut("no_right_choice")
        return [yes, no]
    return [yes] if yes is not None and seeded_hash(seed, f"coin/{dataset}", row_id) % 2 else [no]
