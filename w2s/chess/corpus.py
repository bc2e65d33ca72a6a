"""Game text to pretrain rungs on: self-play up to a mate, and games from files."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from w2s.chess.notation import IllegalError, fen_text, movetext, read_uci, require_chess, san_line
from w2s.chess.selfplay import puzzles, self_play_fingerprint
from w2s.chess.source import default_cache
from w2s.config import ChessCorpus
from w2s.errors import DataError
from w2s.seeds import Role
from w2s.tasks.tables import file_kind, read_table, require_file, text_of

CHESS_CORPUS_VERSION = 1
"""Part of every fingerprint of a chess corpus; raise it when a change here or in tokens.py gives other tokens."""

_PGN = ("pgn", "txt")


def chess_texts(corpus: ChessCorpus, *, cache_dir: Path | None = None) -> list[str]:
    """The documents: games in movetext up to their last move, or (`show: fen`) positions with the move played.

    Games of self-play end in the move that mates, so that a document is a prompt and its answer. They are other games
    than any task's, whatever the seeds; short ones may lead to the same position.

    Raises:
        DataError: python-chess is missing, or a file cannot be used.
    """
    texts = []
    if corpus.self_play is not None:
        chess = require_chess()
        made = puzzles(corpus.self_play, role=Role.CHESS_CORPUS, cache_dir=cache_dir or default_cache())
        texts = [
            f"{movetext(p.moves) if corpus.show == 'moves' else fen_text(chess.Board(p.fen))} {p.answer}" for p in made
        ]
    for file in corpus.files:
        texts += _file_texts(Path(file), corpus.show)
    return texts


def chess_corpus_identity(corpus: ChessCorpus) -> dict[str, Any]:
    """What determines the games, but for the files' bytes."""
    if corpus.self_play is None:
        return {"chess": CHESS_CORPUS_VERSION}
    return {"chess": CHESS_CORPUS_VERSION, "self_play": self_play_fingerprint(corpus.self_play, role=Role.CHESS_CORPUS)}


def check_chess_corpus(corpus: ChessCorpus) -> None:
    """Refuses missing files and a missing python-chess, without playing or reading games.

    Raises:
        DataError: See `chess_texts`.
    """
    require_chess()
    for file in corpus.files:
        require_file(Path(file))
        if file_kind(Path(file), also=_PGN) not in _PGN:
            read_table(Path(file), wanted=("moves_uci",), limit=1)


def _file_texts(file: Path, show: str) -> Iterator[str]:
    require_file(file)
    boards = _pgn_games(file) if file_kind(file, also=_PGN) in _PGN else _uci_games(file)
    for board in boards:
        line = san_line(board)
        if not line:
            continue
        if show == "moves":
            yield movetext(line, to_play=False)
            continue
        replay = board.root()
        for move, san in zip(board.move_stack, line, strict=True):
            yield f"{fen_text(replay)} {san}"
            replay.push(move)


def _uci_games(file: Path) -> Iterator[Any]:
    table = read_table(file, wanted=("moves_uci",))
    for i in range(len(table)):
        board = require_chess().Board()
        try:
            for move in text_of(table, "moves_uci", i).split():
                board.push(read_uci(board, move))
        except IllegalError as error:
            raise DataError(f"{table.where(i)}: {error}") from None
        yield board


def _pgn_games(file: Path) -> Iterator[Any]:
    require_chess()
    import chess.pgn

    whole = gzip.decompress(file.read_bytes()) if file.suffix.lower() == ".gz" else file.read_bytes()
    text = io.StringIO(whole.decode("utf-8", errors="replace"))
    number = 0
    while (game := chess.pgn.read_game(text)) is not None:
        number += 1
        if game.errors:
            raise DataError(f"{file}, game {number}: {game.errors[0]}")
        board = game.end().board()
        if board.root() == chess.Board():  # games from set-up positions have no movetext of their own
            yield board
