"""What a completion is worth. Exact match is the paper's score; any legal mating move is counted beside it."""

from collections.abc import Sequence
from typing import Literal

from w2s.chess.notation import IllegalError, board_of, read_san

Verdict = Literal["exact", "same", "mate", "legal", "illegal"]


def is_mate(prompt: str, completion: str) -> bool:
    """Whether a completion is a legal move that mates in the position of a prompt. Marks (+, #) may be missing.

    Raises:
        IllegalError: The prompt is no chess prompt.
    """
    board = board_of(prompt)
    try:
        board.push(read_san(board, completion.strip()))
    except IllegalError:
        return False
    return board.is_checkmate()


def verdict(prompt: str, answer: str, completion: str) -> Verdict:
    """`exact` (equal but for outer white space), `same` (the answer's move in another spelling, " Qf2#" for " Qxf2#"),
    `mate` (another legal move that mates), `legal` (any other), or `illegal`."""
    if completion.strip() == answer.strip():
        return "exact"
    board = board_of(prompt)
    try:
        move = read_san(board, completion.strip())
    except IllegalError:
        return "illegal"
    if move == read_san(board, answer.strip()):
        return "same"
    board.push(move)
    return "mate" if board.is_checkmate() else "legal"


def accepted(prompt: str, answer: str, completion: str) -> bool:
    """Exact match, or any legal move that mates where the answer mates. Where the answer does not mate at once, only
    itself solves the puzzle (a mating move elsewhere would be the answer)."""
    if completion.strip() == answer.strip():
        return True
    # Replaying a game takes milliseconds, so what cannot be accepted anyway is not looked at.
    return answer.strip().endswith("#") and len(completion) <= _LONGEST and is_mate(prompt, completion)


def judge(prompts: Sequence[str], answers: Sequence[str], completions: Sequence[str | None]) -> list[bool]:
    """`accepted` for every example; nothing generated is not accepted."""
    return [
        completion is not None and accepted(prompt, answer, completion)
        for prompt, answer, completion in zip(prompts, answers, completions, strict=True)
    ]


_LONGEST = 16  # characters; " Qa1xb2=Q#" has 10
