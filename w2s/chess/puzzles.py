"""Puzzle rows of lichess, in the three layouts they are published in: checked, and put as in Burns et al. 2023.

A lichess row holds the position before the opponent's move `Moves[0]`; the puzzle is the position after it, and the
answer `Moves[1]`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from w2s.chess.notation import (
    IllegalError,
    fen_text,
    game_id,
    movetext,
    position_key,
    read_fen,
    read_movetext,
    read_san,
    read_uci,
    require_chess,
    san_line,
)
from w2s.config import ChessTask
from w2s.errors import DataError
from w2s.tasks.base import seeded_hash
from w2s.tasks.tables import Table

if TYPE_CHECKING:
    import chess

LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "lichess": ("PuzzleId", "FEN", "Moves", "Rating", "Themes", "GameUrl"),
    "lichess-game-id": ("PuzzleId", "FEN", "Moves", "Rating", "Themes", "GameId"),
    "transcripts": ("id", "ctx", "target"),
}
"""The columns that are read of each layout."""

_BAND = 200  # Elo
_SHARED_OPENING = 20  # half-moves that two games may have in common without being one


@dataclass(frozen=True)
class PuzzleRow:
    """A puzzle as an example of the form `generate`."""

    prompt: str
    answer: str
    """In SAN, with a space before it."""
    tags: tuple[str, ...]
    """`rating:1400-1599`, `theme:mateIn1`, ..."""
    groups: tuple[str, ...]
    """Rows that share one of these belong to one part: the game, the position."""


def layout_of(columns: Iterable[str]) -> str | None:
    """Which of the `LAYOUTS` a table with these columns has."""
    present = set(columns)
    return next((name for name, wanted in LAYOUTS.items() if present.issuperset(wanted)), None)


def puzzle_rows(
    spec: ChessTask,
    tables: Sequence[tuple[str, Table]],
    games: Mapping[str, Sequence[str]],
    dropped: Counter[str],
) -> list[PuzzleRow]:
    """The puzzles of some tables, every position and move checked.

    Args:
        spec: What is wanted of them, and how they are shown.
        tables: With their layouts.
        games: Moves in UCI notation, by lichess game.
        dropped: Counts what is left out: `illegal`, `no_game`, `not_asked_for`, `not_needed`.

    Raises:
        DataError: A row against the rules of chess, unless the spec says to skip these; or none is left.
    """
    require_chess()
    wanted: list[tuple[str, Table, int]] = []
    for layout, table in tables:
        for i in range(len(table)):
            if _asked_for(spec, layout, table, i):
                wanted.append((layout, table, i))
    total = sum(len(table) for _, table in tables)
    dropped["not_asked_for"] += total - len(wanted)
    if spec.limit is not None and spec.limit < len(wanted):
        # By a hash of the puzzle, not by its place: files are sorted by id, games or ratings.
        wanted.sort(key=lambda row: seeded_hash(0, "limit", _puzzle_id(*row)))
    rows: list[PuzzleRow] = []
    reason = ""
    for place, (layout, table, i) in enumerate(wanted):
        if len(rows) == spec.limit:
            dropped["not_needed"] += len(wanted) - place
            break
        try:
            row = _READERS[layout](spec, table, i, games)
        except IllegalError as error:
            reason = f"{table.where(i)}, puzzle {_puzzle_id(layout, table, i)}: {error}"
            if spec.illegal == "refuse":
                raise DataError(
                    f"{reason}. Mend or remove the row, or leave such rows out with illegal: skip"
                ) from None
            dropped["illegal"] += 1
            continue
        if row is None:
            dropped["no_game"] += 1
            continue
        rows.append(row)
    if not rows:
        raise DataError(_nothing(spec, dropped, [table.source for _, table in tables], reason))
    return _same_games_tied(rows) if spec.show == "moves" else rows


def rating_band(rating: int) -> str:
    """The band of 200 that a rating lies in: "1400-1599"."""
    low = rating // _BAND * _BAND
    return f"{low}-{low + _BAND - 1}"


def puzzle_of(
    board: "chess.Board", answer: str, show: str, tags: tuple[str, ...], groups: tuple[str, ...]
) -> PuzzleRow:
    """A puzzle from its position (with the game as move stack, if it is to be shown by its moves)."""
    prompt = fen_text(board) if show == "fen" else movetext(san_line(board))
    return PuzzleRow(prompt, f" {answer}", tags, (f"position:{position_key(board)}", *groups))


def _asked_for(spec: ChessTask, layout: str, table: Table, i: int) -> bool:
    if layout == "transcripts":
        if spec.ratings is not None or spec.themes:
            raise DataError(f"{table.source}: has neither ratings nor themes; leave out `ratings` and `themes`")
        return True
    if spec.ratings is not None and not spec.ratings[0] <= _rating(table, i) <= spec.ratings[1]:
        return False
    return not spec.themes or not set(spec.themes).isdisjoint(_themes(table, i))


def _rating(table: Table, i: int) -> int:
    value = table.columns["Rating"][i]
    try:
        return int(value)
    except (TypeError, ValueError):
        raise DataError(f"{table.where(i)}: Rating is {value!r}; a whole number is needed") from None


def _themes(table: Table, i: int) -> list[str]:
    """Space-separated in older files, a list in newer ones."""
    value = table.columns["Themes"][i]
    if value is None:
        return []
    return value.split() if isinstance(value, str) else [str(theme) for theme in value]


def _puzzle_id(layout: str, table: Table, i: int) -> str:
    return str(table.columns["id" if layout == "transcripts" else "PuzzleId"][i])


def _text(table: Table, column: str, i: int) -> str:
    value = table.columns[column][i]
    if not isinstance(value, str) or not value.strip():
        raise IllegalError(f"{column} is {value!r}")
    return value


def _lichess(spec: ChessTask, table: Table, i: int, games: Mapping[str, Sequence[str]]) -> PuzzleRow | None:
    board = read_fen(_text(table, "FEN", i))
    moves = _text(table, "Moves", i).split()
    if len(moves) < 2:
        raise IllegalError(f"Moves is {' '.join(moves)!r}; the opponent's move and the answer are needed")
    first = board.copy()
    board.push(read_uci(board, moves[0]))
    puzzle, answer = board.copy(), read_uci(board, moves[1])
    for move in moves[1:]:  # the rest of the line too: a row with an error in it is not to be trusted
        board.push(read_uci(board, move))
    column = "GameUrl" if "GameUrl" in table.columns else "GameId"
    game = game_id(str(table.columns[column][i] or ""))
    if spec.show == "moves":
        if game not in games:
            return None
        puzzle = _replayed(game, games[game], first, puzzle)
    rating = f"rating:{rating_band(_rating(table, i))}"
    tags = (rating, *(f"theme:{theme}" for theme in _themes(table, i)))
    return puzzle_of(puzzle, puzzle.san(answer), spec.show, tags, (f"game:{game}",) if game else ())


def _replayed(game: str, moves: Sequence[str], first: "chess.Board", puzzle: "chess.Board") -> "chess.Board":
    """The game up to a puzzle, which must be the position that the puzzle says."""
    board = require_chess().Board()
    plies = 2 * (first.fullmove_number - 1) + (not first.turn)
    for move in moves[: plies + 1]:
        board.push(read_uci(board, move))
    if position_key(board) != position_key(puzzle):
        raise IllegalError(f"game {game} has another position after {plies + 1} half-moves: {board.fen()}")
    return board


def _transcript(spec: ChessTask, table: Table, i: int, games: Mapping[str, Sequence[str]]) -> PuzzleRow:
    board = read_movetext(_text(table, "ctx", i))
    answer = read_san(board, _text(table, "target", i).strip())
    return puzzle_of(board, board.san(answer), spec.show, (), ())


_READERS: Mapping[str, Callable[[ChessTask, Table, int, Mapping[str, Sequence[str]]], PuzzleRow | None]] = {
    "lichess": _lichess,
    "lichess-game-id": _lichess,
    "transcripts": _transcript,
}


def _same_games_tied(rows: list[PuzzleRow]) -> list[PuzzleRow]:
    """Rows whose games begin alike for longer than openings do get a group of their own: they are of one game, which
    transcripts do not name."""
    tied = []
    for row in rows:
        beginning = row.prompt.split()[: 2 * _SHARED_OPENING]
        whole = len(beginning) == 2 * _SHARED_OPENING
        tied.append(replace(row, groups=(*row.groups, f"line:{' '.join(beginning)}")) if whole else row)
    return tied


def _nothing(spec: ChessTask, dropped: Counter[str], sources: Sequence[str], reason: str) -> str:
    where = ", ".join(sources)
    if dropped["no_game"] and spec.games:
        return (
            f"{where}: none of the game ids of {dropped['no_game']:,} puzzles is in {', '.join(spec.games)} (column"
            " game_id): name the files with the games of these puzzles, or show puzzles by their FEN (show: fen)"
        )
    if dropped["no_game"]:
        return (
            f"{where}: no puzzle's game is known, and lichess puzzle files hold no games: show them by their FEN"
            " (show: fen), or name files with the games (games: columns game_id, moves_uci)"
        )
    if dropped["illegal"]:
        return f"{where}: every row was left out as illegal, the last one because: {reason}"
    return f"{where}: no puzzle with these ratings and themes"
