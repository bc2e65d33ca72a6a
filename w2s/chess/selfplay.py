"""Mates in one or two, proven by search, in games that a seeded random player plays against itself. Needs no download.

Every game has random numbers of its own, by (seed, index); puzzles are taken in the order of games. How many processes
share the work therefore changes nothing.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from w2s.caches import appearing_whole, one_at_a_time
from w2s.chess.notation import require_chess, san_line
from w2s.config import SelfPlay
from w2s.errors import DataError
from w2s.fingerprints import digest
from w2s.seeds import Role, stream

if TYPE_CHECKING:
    import chess

SELF_PLAY_VERSION = 1
"""Part of every fingerprint; raise it when a change here gives other puzzles for the same settings."""

_log = logging.getLogger("w2s")

_SHARD = 64  # games; part of no result
_FEW = 200  # puzzles that are sooner made here than processes are started
_PATIENCE = 200  # shards in a row without a new puzzle

# How likely a legal move is played, relative to a quiet pawn move: what makes mates arise early and of many kinds.
_CAPTURE = 3.0
_QUEEN_CAPTURE = 0.2  # a player whose queen is gone mates too seldom
_CHECK = 3.0
_QUEEN_MOVE = 3.0
_MINOR_MOVE = 3.0**0.5
_KING_SIDE_PAWN = 2.0  # f and g pawns in the opening, which lay the king bare
_OPENING = 12  # half-moves


@dataclass(frozen=True)
class Puzzle:
    """A game and the one move that forces mate after it."""

    moves: tuple[str, ...]
    """The game so far, in SAN."""
    answer: str
    """In SAN."""
    fen: str
    """The position after `moves`."""


def puzzles(
    settings: SelfPlay, *, role: Role = Role.PUZZLES, cache_dir: Path | None = None, workers: int | None = None
) -> list[Puzzle]:
    """The puzzles of a seed: in each the side to move has exactly one move that mates (in one, or in two at the latest
    against any defence, where nothing mates in one). No two have the same position.

    Args:
        settings: How many, of which kind, from which seed.
        role: Puzzles of another role come from other games, for instance those of a corpus.
        cache_dir: Where they are kept, to be made once.
        workers: Processes; None takes as many as there are CPUs at hand. They change the time only.

    Raises:
        DataError: python-chess is not installed.
    """
    if cache_dir is None:
        return _made(settings, role, workers)
    path = cache_dir / "chess" / f"{self_play_fingerprint(settings, role=role)}.json"
    if (kept := _kept(path)) is not None:
        return kept
    with one_at_a_time(path):  # all rungs that start together want the same games
        if (kept := _kept(path)) is not None:
            return kept
        if settings.puzzles > _FEW:  # shown, for a plan that says nothing for minutes seems to hang
            wanted = f"{settings.puzzles:,}"
            _log.warning("self-play: looking for %s puzzles, some minutes, once; kept in %s", wanted, path)
        made = _made(settings, role, workers)
        with appearing_whole(path) as temporary:
            temporary.write_text(json.dumps([(p.moves, p.answer, p.fen) for p in made]))
    return made


def _kept(path: Path) -> list[Puzzle] | None:
    try:
        return [Puzzle(tuple(moves), answer, fen) for moves, answer, fen in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return None  # not there, or damaged: a cache may always be made again


def _made(settings: SelfPlay, role: Role, workers: int | None) -> list[Puzzle]:
    require_chess()
    shards = _shards(settings, role, workers or (_cpus() if settings.puzzles > _FEW else 1))
    try:
        return _distinct(shards, settings.puzzles)
    finally:
        shards.close()  # ends the processes


def self_play_fingerprint(settings: SelfPlay, *, role: Role = Role.PUZZLES) -> str:
    """Hash of what determines the puzzles; none is made for it."""
    return digest(settings.model_dump(mode="json") | {"role": int(role), "version": SELF_PLAY_VERSION})


def play(rng: np.random.Generator, *, mate_in: int, max_plies: int) -> "tuple[chess.Board, chess.Move] | None":
    """One game, up to the first position in which exactly one move forces mate.

    A random player does not see its mates, so a game goes on where several moves would mate, with none of these.

    Args:
        rng: Of this game alone.
        mate_in: 1 or 2 moves of the side that mates.
        max_plies: A game of as many half-moves without such a position is given up.

    Returns:
        The position, with the game as its move stack, and the move; None if the game was given up.
    """
    chess = require_chess()
    board = chess.Board()
    for draw in rng.random(max_plies + 1).tolist():
        legal = list(board.legal_moves)
        checks = checking_moves(board, legal)
        mates = [move for move, mate in checks.items() if mate]
        if mate_in == 1 and len(mates) == 1:
            return board, mates[0]
        # A mate in one here may have been a forced one: then there was a mate in two a move before.
        if mate_in == 2 and mates and len(board.move_stack) >= 2:
            before = board.copy()
            before.pop()
            before.pop()
            keys = keys_of_mate_in_two(before)
            if len(keys) == 1:
                return before, keys[0]
        weights = np.array([0.0 if move in mates else _weight(board, move, move in checks) for move in legal])
        total = np.cumsum(weights)
        if len(board.move_stack) == max_plies or not len(total) or not total[-1]:
            return None
        board.push(legal[int(np.searchsorted(total, draw * total[-1], side="right"))])
    return None


def checking_moves(board: "chess.Board", legal: "Iterable[chess.Move]") -> "dict[chess.Move, bool]":
    """The moves that give check, and whether they mate.

    A move can only check if its piece lands on a square that attacks the king, leaves a line to it, or is of a special
    kind; only these, a tenth of all, are played out.
    """
    chess = require_chess()
    us, king, occupied = board.turn, board.king(not board.turn), board.occupied
    diagonals = chess.BB_DIAG_ATTACKS[king][chess.BB_DIAG_MASKS[king] & occupied]
    lines = chess.BB_RANK_ATTACKS[king][chess.BB_RANK_MASKS[king] & occupied]
    lines |= chess.BB_FILE_ATTACKS[king][chess.BB_FILE_MASKS[king] & occupied]
    rays = diagonals | lines
    knights, pawns = chess.BB_KNIGHT_ATTACKS[king], chess.BB_PAWN_ATTACKS[not us][king]
    checks = {}
    for move in legal:
        start, end = chess.BB_SQUARES[move.from_square], chess.BB_SQUARES[move.to_square]
        if start & rays or move.promotion:
            possible = True
        elif start & board.pawns:
            possible = end & pawns or move.to_square == board.ep_square
        elif start & board.knights:
            possible = end & knights
        elif start & board.bishops:
            possible = end & diagonals
        elif start & board.rooks:
            possible = end & lines
        elif start & board.queens:
            possible = end & rays
        else:  # of the king, only castling
            possible = abs(move.to_square - move.from_square) == 2
        if possible:
            board.push(move)
            if board.is_check():
                checks[move] = board.is_checkmate()
            board.pop()
    return checks


def mates_in_one(board: "chess.Board") -> "list[chess.Move]":
    """Every move that mates, found by trying all."""
    return [move for move, mate in checking_moves(board, board.legal_moves).items() if mate]


def keys_of_mate_in_two(board: "chess.Board") -> "list[chess.Move]":
    """Every move after which each reply allows a mate in one, or which mates at once; [] also where one mates at once.

    A search of all first moves and all replies: what it returns is a proof.
    """
    if mates_in_one(board):
        return []
    return [move for move in list(board.legal_moves) if _forces_mate_in_one(board, move)]


def _forces_mate_in_one(board: "chess.Board", move: "chess.Move") -> bool:
    board.push(move)
    try:
        replies = list(board.legal_moves)
        if not replies:
            return False  # stalemate, for nothing mates in one
        for reply in replies:
            board.push(reply)
            mated = bool(mates_in_one(board))
            board.pop()
            if not mated:
                return False
        return True
    finally:
        board.pop()


def _weight(board: "chess.Board", move: "chess.Move", check: bool) -> float:
    import chess

    start, end = chess.BB_SQUARES[move.from_square], chess.BB_SQUARES[move.to_square]
    weight = 1.0
    if end & board.occupied:
        weight = _QUEEN_CAPTURE if end & board.queens else _CAPTURE
    if start & board.queens:
        weight *= _QUEEN_MOVE
    elif start & (board.bishops | board.knights):
        weight *= _MINOR_MOVE
    elif start & board.pawns & (chess.BB_FILE_F | chess.BB_FILE_G) and len(board.move_stack) < _OPENING:
        weight *= _KING_SIDE_PAWN
    return weight * _CHECK if check else weight


def _shard(settings: SelfPlay, role: Role, number: int) -> list[Puzzle]:
    """The puzzles of one run of games."""
    found = []
    for index in range(number * _SHARD, (number + 1) * _SHARD):
        rng = stream(settings.seed, role, index)
        if puzzle := play(rng, mate_in=settings.mate_in, max_plies=settings.max_plies):
            board, move = puzzle
            found.append(Puzzle(tuple(san_line(board)), board.san(move), board.fen()))
    return found


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shards(settings: SelfPlay, role: Role, workers: int) -> Generator[list[Puzzle], None, None]:
    """The shards in order, endlessly."""
    if workers == 1:
        yield from (_shard(settings, role, number) for number in count())
        return
    # Programs of their own, not forks, which would copy the caller's threads (of torch, of Ray) in mid-air; nor
    # multiprocessing's, which would run the caller's main module once more.
    command = [sys.executable, "-m", "w2s.chess.selfplay", settings.model_dump_json(), str(int(role)), str(workers)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    players = [
        subprocess.Popen([*command, str(first)], stdout=subprocess.PIPE, env=environment, text=True)
        for first in range(workers)
    ]
    try:
        for number in count():
            player = players[number % workers]
            assert player.stdout is not None
            line = player.stdout.readline()
            if not line.endswith("\n"):
                raise DataError(f"self-play: one of its processes ended early (exit code {player.wait()})")
            yield [Puzzle(tuple(moves), answer, fen) for moves, answer, fen in json.loads(line)]
    finally:
        for player in players:
            player.kill()
            player.wait()
            if player.stdout is not None:
                player.stdout.close()


def _distinct(shards: Iterable[list[Puzzle]], size: int) -> list[Puzzle]:
    """The first `size` puzzles with different positions.

    Raises:
        DataError: Nothing new comes any more.
    """
    kept: dict[str, Puzzle] = {}
    idle = 0
    for shard in shards:
        before = len(kept)
        for puzzle in shard:
            kept.setdefault(_position(puzzle), puzzle)
        if len(kept) >= size:
            break
        idle = 0 if len(kept) > before else idle + 1
        if idle == _PATIENCE:
            raise DataError(
                f"self-play: {_PATIENCE * _SHARD:,} games in a row brought no new puzzle; there are {len(kept):,} of"
                f" the {size:,} asked for: ask for fewer, or let games be longer (max_plies)"
            )
    return list(kept.values())[:size]


def _position(puzzle: Puzzle) -> str:
    return " ".join(puzzle.fen.split()[:4])


def _play_for_parent(settings: str, role: str, workers: str, first: str) -> None:
    """Every `workers`-th shard from `first` on, a line of JSON each, until the reader goes away."""
    chosen = SelfPlay.model_validate_json(settings)
    try:
        for number in count(int(first), int(workers)):
            puzzles = _shard(chosen, Role(int(role)), number)
            print(json.dumps([(p.moves, p.answer, p.fen) for p in puzzles]), flush=True)
    except BrokenPipeError:
        os._exit(0)  # no complaint about what cannot be flushed


if __name__ == "__main__":
    _play_for_parent(*sys.argv[1:])
