"""Chess text as in Burns et al. 2023: games with every half-move numbered, positions, moves; and what prompts say.

python-chess is an optional extra under another licence (GPL-3), so it is imported when a function needs it.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from w2s.errors import DataError

if TYPE_CHECKING:
    import chess

_NUMBER = re.compile(r"\d+\.+")


class IllegalError(ValueError):
    """A position or move against the rules of chess; the text says which and why."""


def require_chess() -> Any:
    """The module `chess` of python-chess.

    Raises:
        DataError: It is not installed.
    """
    try:
        import chess
    except ImportError as error:
        raise DataError(
            "chess puzzles are checked by python-chess, which is not installed: pip install 'w2s-sweep[chess]'"
        ) from error
    return chess


def half_move_number(plies: int) -> str:
    """The number of the half-move after `plies` half-moves: "1.", "1...", "2.", ..."""
    return f"{plies // 2 + 1}." + ("" if plies % 2 == 0 else "..")


def movetext(moves: Sequence[str], *, to_play: bool = True) -> str:
    """A game with every half-move numbered: "1. e4 1... e5 2. Nf3".

    Args:
        moves: In SAN, from the initial position on.
        to_play: End with the number of the move to be played: "1. e4 1... e5 2."
    """
    words = [f"{half_move_number(plies)} {move}" for plies, move in enumerate(moves)]
    return " ".join(words + [half_move_number(len(moves))] * to_play)


def fen_text(board: "chess.Board") -> str:
    """A position as a prompt: its FEN, and the number of the move to be played."""
    plies = 2 * (board.fullmove_number - 1) + (not board.turn)
    return f"{board.fen()} {half_move_number(plies)}"


def read_fen(fen: str) -> "chess.Board":
    """A position, checked: two kings, the side to move not able to take the other's, possible castling rights, ...

    Raises:
        IllegalError: It is no FEN, or no possible position.
    """
    chess = require_chess()
    try:
        board = chess.Board(fen)
    except ValueError as error:
        raise IllegalError(f"{fen!r} is no FEN ({error})") from None
    if status := board.status():
        reasons = ", ".join(flag.name.lower().replace("_", " ") for flag in chess.Status if flag and flag & status)
        raise IllegalError(f"{fen!r} is no possible position ({reasons})")
    return board


def read_uci(board: "chess.Board", move: str) -> "chess.Move":
    """A move in UCI notation, checked.

    Raises:
        IllegalError: It is no move, or not legal in this position.
    """
    try:
        parsed = require_chess().Move.from_uci(move)
    except ValueError:
        raise IllegalError(f"{move!r} is no move in UCI notation, such as e2e4 or e7e8q") from None
    if not parsed or not board.is_legal(parsed):
        raise IllegalError(f"move {move} is illegal in {board.fen()}")
    return parsed


def read_san(board: "chess.Board", move: str) -> "chess.Move":
    """A move in SAN, checked; marks such as + and # may be missing.

    Raises:
        IllegalError: It is no move, or not legal (or not the only such move) in this position.
    """
    try:
        parsed = board.parse_san(move)
    except ValueError as error:
        raise IllegalError(f"move {move!r} cannot be played in {board.fen()} ({error})") from None
    if not parsed:
        raise IllegalError(f"{move!r} is no move")
    return parsed


def read_movetext(text: str) -> "chess.Board":
    """The position after a game in movetext, numbered in any way, with or without the number of the next move.

    Raises:
        IllegalError: A move that cannot be played.
    """
    board = require_chess().Board()
    for word in text.split():
        # "1.e4" is one word of two parts
        if move := _NUMBER.sub("", word, count=1):
            board.push(read_san(board, move))
    return board


def board_of(prompt: str) -> "chess.Board":
    """The position that a prompt of `movetext` or `fen_text` ends in.

    Raises:
        IllegalError: It is neither.
    """
    if "/" not in prompt:
        return read_movetext(prompt)
    return read_fen(" ".join(prompt.split()[:6]))


def position_key(board: "chess.Board") -> str:
    """The position without its move counters: equal for two games that lead to the same one."""
    return board.epd()


def san_line(board: "chess.Board") -> list[str]:
    """The moves played on a board, in SAN, from its first position on."""
    replay = board.root()
    line = []
    for move in board.move_stack:
        line.append(replay.san(move))
        replay.push(move)
    return line


def game_id(url: str) -> str:
    """The game of a lichess address, whichever side or ply it points to; "https://lichess.org/4MWQCxQ6/black#32" and
    "4MWQCxQ6/black#32" give "4MWQCxQ6"."""
    path = url.split("#")[0].split("lichess.org/")[-1].strip("/")
    return path.split("/")[0]
