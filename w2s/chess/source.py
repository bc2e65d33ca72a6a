"""From a chess task's spec to its puzzles, and to what determines them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from w2s.chess.notation import movetext, require_chess
from w2s.chess.puzzles import LAYOUTS, PuzzleRow, layout_of, puzzle_of, puzzle_rows
from w2s.chess.selfplay import Puzzle, puzzles, self_play_fingerprint
from w2s.config import ChessTask, HubTask, SelfPlay
from w2s.errors import DataError
from w2s.fingerprints import HashFile
from w2s.tasks.build import Row, SourceRows
from w2s.tasks.tables import Table, file_identity, read_table, text_of

CHESS_VERSION = 1
"""Part of every fingerprint of a chess task; raise it when a change here gives other examples."""

_PLIES_BAND = 10


def load_chess(spec: ChessTask, *, cache_dir: Path | None = None) -> tuple[list[PuzzleRow], Counter[str]]:
    """The puzzles of a task, each checked with python-chess, in the order of their source.

    Args:
        spec: Where they come from and how they are shown.
        cache_dir: Where puzzles of self-play are kept; None is W2S_CACHE, or ~/.cache/w2s.

    Returns:
        Rows, and how many were left out, by reason.

    Raises:
        DataError: python-chess is missing, a file cannot be used, or a row is against the rules of chess.
    """
    require_chess()
    dropped: Counter[str] = Counter()
    if not (spec.files or spec.id):
        made = puzzles(spec.self_play or SelfPlay(), cache_dir=cache_dir or default_cache())
        return [_self_play_row(spec, puzzle) for puzzle in made], dropped
    tables = [_read(Path(file)) for file in spec.files] if spec.files else [_from_hub(spec)]
    return puzzle_rows(spec, tables, _games(spec.games), dropped), dropped


def read_chess(spec: ChessTask) -> SourceRows:
    """`load_chess`, as rows of a task. Lichess has no test of its own: one is split off."""
    rows, dropped = load_chess(spec)
    as_rows = [Row(prompt=r.prompt, answer=r.answer, tags=r.tags, groups=r.groups) for r in rows]
    where = ", ".join(spec.files) or spec.id or "self-play"
    return SourceRows(as_rows, None, dropped, {"train": len(rows) + dropped.total()}, where)


def chess_identity(spec: ChessTask, hash_file: HashFile) -> dict[str, Any]:
    """What determines the puzzles, but for the rest of the spec: of files kind and bytes, neither paths nor order; a
    hub commit; seed, size and version of self-play. No puzzle is made.

    Raises:
        DataError: A file is missing, or the commit cannot be found out.
    """
    identity: dict[str, Any] = {"chess": CHESS_VERSION, "games": _identities(spec.games, hash_file)}
    if spec.files:
        return identity | {"files": _identities(spec.files, hash_file)}
    if spec.id:
        from w2s.tasks.hub import hub_identity

        return identity | hub_identity(_hub_task(spec), hash_file)
    return identity | {"self_play": self_play_fingerprint(spec.self_play or SelfPlay())}


def default_cache() -> Path:
    """Where puzzles are kept if nobody says where."""
    return Path(os.environ.get("W2S_CACHE", Path.home() / ".cache" / "w2s"))


def _self_play_row(spec: ChessTask, puzzle: Puzzle) -> PuzzleRow:
    chess = require_chess()
    mate_in = (spec.self_play or SelfPlay()).mate_in
    band = len(puzzle.moves) // _PLIES_BAND * _PLIES_BAND
    tags = (f"theme:mateIn{mate_in}", f"plies:{band}-{band + _PLIES_BAND - 1}")
    if spec.show == "fen":
        return puzzle_of(chess.Board(puzzle.fen), puzzle.answer, "fen", tags, ())
    position = " ".join(puzzle.fen.split()[:4])
    return PuzzleRow(movetext(puzzle.moves), f" {puzzle.answer}", tags, (f"position:{position}",))


def _read(file: Path) -> tuple[str, Table]:
    """A file in whichever layout has all its columns there."""
    first: DataError | None = None
    for name, columns in LAYOUTS.items():
        try:
            read_table(file, wanted=columns, limit=1)
        except DataError as error:
            if "no column" not in str(error):
                raise
            first = first or error
        else:
            return name, read_table(file, wanted=columns)
    raise DataError(f"{first}. {_known_layouts()}")


def _known_layouts() -> str:
    return "Known puzzle files have the columns " + "; or ".join(", ".join(columns) for columns in LAYOUTS.values())


def _hub_task(spec: ChessTask) -> HubTask:
    return HubTask(name=spec.name, source="hub", id=spec.id or "", revision=spec.revision)


def _from_hub(spec: ChessTask) -> tuple[str, Table]:
    from w2s.tasks.hub import load_hub_splits

    split = _hub_task(spec).train
    splits = load_hub_splits(_hub_task(spec))
    if split not in splits:
        raise DataError(f"dataset {spec.id}: has no split {split!r} (splits: {', '.join(splits)})")
    dataset = splits[split]
    layout = layout_of(dataset.column_names)
    if layout is None:
        present = ", ".join(dataset.column_names)
        raise DataError(f"dataset {spec.id}: no puzzles in a known layout (columns: {present}). {_known_layouts()}")
    columns: Any = dataset.select_columns(list(LAYOUTS[layout])).to_dict()
    return layout, Table(f"dataset {spec.id}, split {split}", columns, range(1, len(dataset) + 1), "row")


def _games(files: Sequence[str]) -> Mapping[str, Sequence[str]]:
    games: dict[str, Sequence[str]] = {}
    for file in files:
        table = read_table(Path(file), wanted=("game_id", "moves_uci"))
        for i in range(len(table)):
            games[text_of(table, "game_id", i)] = text_of(table, "moves_uci", i).split()
    return games


def _identities(files: Sequence[str], hash_file: HashFile) -> list[list[str]]:
    return sorted(file_identity(Path(file), hash_file) for file in files)
