"""Chess puzzles: rows of lichess, proven mates of self-play, what a completion is worth, corpus and tokenizer."""

import csv
import gzip
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from w2s.caches import one_at_a_time
from w2s.config import ChessCorpus, ChessTask, SelfPlay
from w2s.corpora import check_corpus, corpus_fingerprint, corpus_tokens, read_texts, tokenizer_for
from w2s.errors import DataError
from w2s.fingerprints import hash_file
from w2s.seeds import Role, stream
from w2s.tasks import judge_of, load_task, task_fingerprint

chess = pytest.importorskip("chess", reason="python-chess, an optional extra, is not installed")

from w2s.chess import judging, notation, selfplay  # noqa: E402
from w2s.chess.notation import board_of, half_move_number, movetext, san_line  # noqa: E402
from w2s.chess.source import load_chess  # noqa: E402
from w2s.chess.tokens import UNKNOWN, chess_tokenizer  # noqa: E402

HEADER = [
    "PuzzleId",
    "FEN",
    "Moves",
    "Rating",
    "RatingDeviation",
    "Popularity",
    "NbPlays",
    "Themes",
    "GameUrl",
    "OpeningTags",
]
# The position before the opponent's move; scholar's mate follows g8f6. White's game: 1. e4 e5 2. Bc4 Nc6 3. Qh5 Nf6.
BEFORE = "r1bqkbnr/pppp1ppp/2n5/4p2Q/2B1P3/8/PPPP1PPP/RNB1K1NR b KQkq - 3 3"
AFTER = "r1bqkb1r/pppp1ppp/2n2n2/4p2Q/2B1P3/8/PPPP1PPP/RNB1K1NR w KQkq - 4 4"
SCHOLAR = [
    "aaaa1",
    BEFORE,
    "g8f6 h5f7",
    "1432",
    "75",
    "90",
    "10",
    "mate mateIn1 short",
    "https://lichess.org/Game0001#6",
    "",
]
FORK = [
    "0009B",
    "r2qr1k1/b1p2ppp/pp4n1/P1P1p3/4P1n1/B2P2Pb/3NBP1P/RN1QR1K1 b - - 1 16",
    "b6c5 e2g4 h3g4 d1g4",
    *("1080", "74", "87", "589", "advantage middlegame short", "https://lichess.org/4MWQCxQ6/black#32", ""),
]


def write_csv(path: Path, rows: list[list[str]], header: list[str] = HEADER) -> Path:
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def task(*files: Path, **changes) -> ChessTask:
    return ChessTask.model_validate(
        {"name": "chess", "source": "chess", "files": list(map(str, files)), "show": "fen"} | changes
    )


@pytest.mark.parametrize("name", ["puzzles.csv", "puzzles.csv.gz"])
def test_a_puzzle_is_the_position_after_the_opponents_move_and_the_answer_is_the_reply(tmp_path, name):
    rows, dropped = load_chess(task(write_csv(tmp_path / name, [SCHOLAR, FORK])))
    assert rows[0].prompt == f"{AFTER} 4."
    assert rows[0].answer == " Qxf7#"
    assert rows[0].tags == ("rating:1400-1599", "theme:mate", "theme:mateIn1", "theme:short")
    assert "game:Game0001" in rows[0].groups
    assert rows[1].answer == " Bxg4"
    assert "game:4MWQCxQ6" in rows[1].groups
    assert not +dropped


def test_where_the_game_is_known_the_prompt_is_the_game_with_every_half_move_numbered(tmp_path):
    games = write_csv(
        tmp_path / "games.csv", [["Game0001", "e2e4 e7e5 f1c4 b8c6 d1h5 g8f6 h5f7"]], ["game_id", "moves_uci"]
    )
    puzzles = write_csv(tmp_path / "puzzles.csv", [SCHOLAR, FORK])
    rows, dropped = load_chess(task(puzzles, show="moves", games=[str(games)]))
    assert [row.prompt for row in rows] == ["1. e4 1... e5 2. Bc4 2... Nc6 3. Qh5 3... Nf6 4."]
    assert dropped["no_game"] == 1  # the other puzzle's


def test_a_game_that_does_not_lead_to_the_puzzle_is_refused(tmp_path):
    games = write_csv(tmp_path / "games.csv", [["Game0001", "e2e4 e7e5 f1c4 b8c6 d1f3 g8f6"]], ["game_id", "moves_uci"])
    with pytest.raises(DataError, match="game Game0001 has another position after 6 half-moves"):
        load_chess(task(write_csv(tmp_path / "p.csv", [SCHOLAR]), show="moves", games=[str(games)]))


def test_games_of_other_puzzles_are_said_to_be_that(tmp_path):
    games = write_csv(tmp_path / "games.csv", [["Other", "e2e4"]], ["game_id", "moves_uci"])
    with pytest.raises(DataError, match=r"none of the game ids of 2 puzzles is in .*games\.csv \(column game_id\)"):
        load_chess(task(write_csv(tmp_path / "p.csv", [SCHOLAR, FORK]), show="moves", games=[str(games)]))


def test_puzzles_without_any_game_say_what_can_be_done(tmp_path):
    with pytest.raises(DataError, match=r"show: fen.*games: columns game_id, moves_uci"):
        load_chess(task(write_csv(tmp_path / "p.csv", [SCHOLAR]), show="moves"))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("Moves", "g8f6 h5f6x", "'h5f6x' is no move in UCI notation"),
        ("Moves", "g8f6 h5e8", "move h5e8 is illegal"),
        ("Moves", "g8f5 h5f7", "move g8f5 is illegal"),
        ("Moves", "g8f6 h5f7 e8e7", "move e8e7 is illegal"),
        ("Moves", "g8f6", "the opponent's move and the answer are needed"),
        ("Moves", "g8f6 0000", "move 0000 is illegal"),
        ("FEN", "not a fen", "'not a fen' is no FEN"),
        ("FEN", BEFORE.replace("k", "q", 1), "no possible position .*no black king"),
        ("FEN", BEFORE.replace(" b ", " w ").replace("5/4p2Q", "5/4p1Q1").replace("bqkb", "bqQk"), "is no"),
        ("FEN", "", "FEN is ''"),
    ],
)
def test_a_row_against_the_rules_is_refused_with_its_line_and_reason_or_skipped_and_counted(
    tmp_path, column, value, reason
):
    broken = list(SCHOLAR)
    broken[HEADER.index(column)] = value
    path = write_csv(tmp_path / "puzzles.csv", [FORK, broken])
    with pytest.raises(DataError, match=rf"puzzles\.csv, line 3, puzzle aaaa1: .*{reason}"):
        load_chess(task(path))
    rows, dropped = load_chess(task(path, illegal="skip"))
    assert [row.answer for row in rows] == [" Bxg4"]
    assert dropped["illegal"] == 1


def test_a_file_of_illegal_rows_only_is_refused_even_if_they_may_be_skipped(tmp_path):
    broken = [*SCHOLAR[:2], "g8f6 h5e8", *SCHOLAR[3:]]
    with pytest.raises(DataError, match=r"every row was left out as illegal.*h5e8 is illegal"):
        load_chess(task(write_csv(tmp_path / "p.csv", [broken]), illegal="skip"))


def test_newer_hub_files_with_game_ids_and_lists_of_themes_read_alike(tmp_path):
    frame = pl.DataFrame(
        {
            "PuzzleId": ["aaaa1"],
            "GameId": ["Game0001/black#6"],
            "FEN": [BEFORE],
            "Moves": ["g8f6 h5f7"],
            "Rating": pl.Series([1432], dtype=pl.Int16),
            "Themes": [["mate", "mateIn1", "short"]],
            "OpeningTags": [None],
        }
    )
    frame.write_parquet(tmp_path / "puzzles.parquet")
    new, _ = load_chess(task(tmp_path / "puzzles.parquet"))
    old, _ = load_chess(task(write_csv(tmp_path / "puzzles.csv", [SCHOLAR])))
    assert new == old


def test_a_folder_with_a_copy_of_a_hub_data_set_is_read(tmp_path):
    folder = tmp_path / "lichess-puzzles" / "data"
    folder.mkdir(parents=True)
    rows = pl.DataFrame({"id": ["a"], "ctx": ["1. f3 1... e5 2. g4 2..."], "target": [" Qh4#"]})
    rows.write_parquet(folder / "train-00000-of-00001.parquet")
    spec = task(show="moves", id=str(folder.parent))
    found, _ = load_chess(spec)
    assert [(row.prompt, row.answer) for row in found] == [("1. f3 1... e5 2. g4 2...", " Qh4#")]
    assert len(task_fingerprint(spec)) == 64


def test_transcripts_are_checked_and_can_be_shown_as_positions(tmp_path):
    path = tmp_path / "puzzles.jsonl"
    good = {"id": "a", "ctx": "1. f3 1... e5 2. g4 2...", "target": " Qh4#"}
    path.write_text("\n".join(map(json.dumps, [good, good | {"id": "b", "target": " Qh5#"}])))
    with pytest.raises(DataError, match=r"line 2, puzzle b: move 'Qh5#' cannot be played"):
        load_chess(task(path))
    rows, dropped = load_chess(task(path, illegal="skip"))
    assert rows[0].prompt == "rnbqkbnr/pppp1ppp/8/4p3/6P1/5P2/PPPPP2P/RNBQKBNR b KQkq - 0 2 2..."
    assert dropped["illegal"] == 1


def test_puzzles_of_one_game_share_a_group(tmp_path):
    line = [
        "e4",
        "e5",
        "Nf3",
        "Nc6",
        "Bb5",
        "a6",
        "Ba4",
        "Nf6",
        "O-O",
        "Be7",
        "Re1",
        "b5",
        "Bb3",
        "d6",
        "c3",
        "O-O",
        "h3",
        "Nb8",
        "d4",
        "Nbd7",
    ]
    rows = [{"id": str(n), "ctx": movetext(line[:n]), "target": line[n]} for n in (17, 19)]
    rows += [
        {"id": "20", "ctx": movetext(line), "target": "Nbd2"},
        {"id": "21", "ctx": movetext([*line, "c4"]), "target": "c6"},
    ]
    path = tmp_path / "puzzles.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found, _ = load_chess(task(path, show="moves"))
    groups = [{group for group in row.groups if group.startswith("line:")} for row in found]
    assert groups[:2] == [set(), set()]  # that short, two games may well begin alike
    assert len(groups[2]) == 1
    assert groups[2] == groups[3]


def test_ratings_themes_and_limit_choose_the_same_puzzles_in_any_order(tmp_path):
    a, b = write_csv(tmp_path / "a.csv", [SCHOLAR, FORK]), write_csv(tmp_path / "b.csv", [FORK, SCHOLAR])
    assert [row.answer for row in load_chess(task(a, ratings=(1400, 1499)))[0]] == [" Qxf7#"]
    rows, dropped = load_chess(task(a, themes=["advantage"]))
    assert [row.answer for row in rows] == [" Bxg4"]
    assert dropped["not_asked_for"] == 1
    assert load_chess(task(a, limit=1))[0] == load_chess(task(b, limit=1))[0]
    with pytest.raises(DataError, match="no puzzle with these ratings and themes"):
        load_chess(task(a, ratings=(2000, 2100)))


def test_a_file_of_another_kind_is_refused_with_the_layouts_known(tmp_path):
    path = write_csv(tmp_path / "p.csv", [["x", "1"]], ["text", "label"])
    with pytest.raises(DataError, match=r"no column 'PuzzleId'.*PuzzleId, FEN, Moves.*or id, ctx, target"):
        load_chess(task(path))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"files": ["a.csv"], "id": "x/y"}, "files and id are given"),
        ({"form": "classify"}, "form is generate"),
        ({"limit": 5}, "limit: only for puzzles from files"),
        ({"files": ["a.csv"], "ratings": [1500, 1400]}, "lowest comes first"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, match):
    with pytest.raises(ValidationError, match=match):
        ChessTask.model_validate({"name": "c", "source": "chess"} | changes)


def test_without_python_chess_the_message_names_the_extra():
    code = (
        "import sys; sys.modules['chess'] = None\n"
        "from w2s.config import ChessTask\nfrom w2s.chess.source import load_chess\n"
        "load_chess(ChessTask(name='c', source='chess'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
    assert "DataError" in done.stderr
    assert "pip install 'w2s-sweep[chess]'" in done.stderr


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_all_real_puzzles_parse_and_their_answers_are_legal(shared_data):
    rows, dropped = load_chess(task(shared_data / "chess" / "lichess_puzzles_15k.csv.gz"))
    assert len(rows) == 15_000
    assert not +dropped
    bands = Counter(tag for row in rows for tag in row.tags if tag.startswith("rating:"))
    assert min(bands) == "rating:1000-1199"
    assert max(bands) == "rating:2400-2599"
    for row in rows[::50]:  # once more, from what a model sees
        board_of(row.prompt).parse_san(row.answer.strip())


@pytest.fixture(scope="module")
def mates():
    return selfplay.puzzles(SelfPlay(puzzles=60, seed=3), workers=1)


def test_self_play_proves_one_and_only_one_mate(mates):
    assert len(mates) == 60
    for puzzle in mates:
        board = board_of(movetext(puzzle.moves))
        assert board.fen() == puzzle.fen
        mating = []
        for move in list(board.legal_moves):  # the plain way, with none of the generator's shortcuts
            san = board.san(move)
            board.push(move)
            if board.is_checkmate():
                mating.append(san)
            board.pop()
        assert mating == [puzzle.answer]
        assert len(puzzle.moves) <= 30
    assert len({" ".join(puzzle.fen.split()[:4]) for puzzle in mates}) == 60


def test_self_play_gives_the_same_puzzles_with_any_number_of_processes_and_any_size(mates):
    assert selfplay.puzzles(SelfPlay(puzzles=60, seed=3), workers=3) == mates
    assert selfplay.puzzles(SelfPlay(puzzles=20, seed=3), workers=2) == mates[:20]
    assert selfplay.puzzles(SelfPlay(puzzles=20, seed=4), workers=1) != mates[:20]


def test_a_corpus_has_games_of_its_own(mates):
    corpus = selfplay.puzzles(SelfPlay(puzzles=60, seed=3), role=Role.CHESS_CORPUS, workers=1)
    assert len({puzzle.moves for puzzle in corpus} & {puzzle.moves for puzzle in mates}) <= 3  # the shortest mates


def test_self_play_is_made_once_and_again_if_the_cache_is_damaged(tmp_path, monkeypatch):
    small = SelfPlay(puzzles=3)
    made = selfplay.puzzles(small, cache_dir=tmp_path, workers=1)
    (path,) = (tmp_path / "chess").glob("*.json")
    path.write_text(path.read_text()[:50])
    assert selfplay.puzzles(small, cache_dir=tmp_path, workers=1) == made
    monkeypatch.setattr(selfplay, "play", None)  # may not be called again
    assert selfplay.puzzles(small, cache_dir=tmp_path, workers=1) == made


def test_who_asks_while_another_process_plays_waits_for_its_games(tmp_path, monkeypatch):
    small = SelfPlay(puzzles=3)
    made = selfplay.puzzles(small, cache_dir=tmp_path / "other", workers=1)
    (theirs,) = (tmp_path / "other" / "chess").glob("*.json")
    path = tmp_path / "chess" / theirs.name
    looked, looked_again = threading.Event(), threading.Event()

    def kept(path: Path):
        (looked_again if looked.is_set() else looked).set()
        return real(path)

    real = selfplay._kept
    monkeypatch.setattr(selfplay, "_kept", kept)
    monkeypatch.setattr(selfplay, "play", None)  # may not be called
    with ThreadPoolExecutor(1) as pool:
        with one_at_a_time(path):
            asked = pool.submit(selfplay.puzzles, small, cache_dir=tmp_path, workers=1)
            assert looked.wait(timeout=60)
            assert not looked_again.wait(timeout=0.2)
            path.write_bytes(theirs.read_bytes())
        assert asked.result(timeout=60) == made


def test_more_puzzles_than_games_can_bring_are_refused(monkeypatch):
    monkeypatch.setattr(selfplay, "_PATIENCE", 2)
    with pytest.raises(DataError, match=r"128 games in a row brought no new puzzle.*max_plies"):
        selfplay.puzzles(SelfPlay(puzzles=3, max_plies=4, mate_in=2), workers=1)


def test_a_mate_in_two_is_forced_by_one_move_only():
    (puzzle,) = selfplay.puzzles(SelfPlay(puzzles=1, mate_in=2, seed=1), workers=1)
    board = board_of(movetext(puzzle.moves))
    assert not _can_mate(board, 1)
    keys = []
    for move in list(board.legal_moves):
        san = board.san(move)
        board.push(move)
        replies = list(board.legal_moves)
        forced = bool(replies)
        for reply in replies:
            board.push(reply)
            forced = forced and _can_mate(board, 1)
            board.pop()
        board.pop()
        if forced:
            keys.append(san)
    assert keys == [puzzle.answer]


def _can_mate(board, moves: int) -> bool:
    for move in list(board.legal_moves):
        board.push(move)
        mate = board.is_checkmate()
        board.pop()
        if mate:
            return True
    return False


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 120))
def test_checking_moves_are_those_that_give_check(seed, plies):
    rng = np.random.default_rng(seed)
    board = chess.Board()
    for _ in range(plies):
        legal = list(board.legal_moves)
        if not legal:
            break
        assert set(selfplay.checking_moves(board, legal)) == {move for move in legal if board.gives_check(move)}
        board.push(legal[int(rng.integers(len(legal)))])


@pytest.mark.parametrize(
    "fen",
    [
        "8/P6k/8/8/8/8/8/K7 w - - 0 1",  # promotion
        "5k2/8/8/8/8/8/8/4K2R w K - 0 1",  # castling
        "8/8/8/8/k2Pp2Q/8/8/3K4 b - d3 0 1",  # en passant
        "8/8/1k6/8/2pP4/8/5B2/1K6 b - d3 0 1",
        "4k3/8/8/8/4N3/8/8/K3R3 w - - 0 1",  # a line laid open
    ],
)
def test_special_moves_that_give_check_are_seen(fen):
    board = chess.Board(fen)
    legal = list(board.legal_moves)
    assert set(selfplay.checking_moves(board, legal)) == {move for move in legal if board.gives_check(move)}


def test_fingerprints_change_with_what_determines_the_puzzles_and_with_nothing_else(tmp_path):
    path = write_csv(tmp_path / "p.csv", [SCHOLAR])
    elsewhere = tmp_path / "folder"
    elsewhere.mkdir()
    copy = write_csv(elsewhere / "q.csv", [SCHOLAR])
    other = write_csv(tmp_path / "r.csv", [FORK])
    assert task_fingerprint(task(path)) == task_fingerprint(task(copy)) != task_fingerprint(task(other))
    offline = [
        task_fingerprint(task(self_play={"seed": s, "mate_in": m}, show=show))
        for s, m, show in product((0, 1), (1, 2), ("moves", "fen"))
    ]
    assert len(set(offline)) == 8
    assert task_fingerprint(task(self_play={}, name="other")) == task_fingerprint(task(self_play=None))
    assert hash_file(path) == hash_file(copy)


PROMPT = "1. f3 1... e5 2. g4 2..."
CAPTURE = "1. e4 1... e5 2. Bc4 2... Nc6 3. Qh5 3... Nf6 4."
# White mates with either rook, and with no other move.
TWO_MATES = "k7/8/1K6/8/8/8/8/4R2R w - - 0 30 30."


@pytest.mark.parametrize(
    ("prompt", "answer", "completion", "expected"),
    [
        (PROMPT, " Qh4#", " Qh4#", "exact"),
        (PROMPT, " Qh4#", "Qh4#\n", "exact"),
        (PROMPT, " Qh4#", " Qh4", "same"),
        (PROMPT, " Qh4#", " Qd8h4#", "same"),
        (CAPTURE, " Qxf7#", " Qf7#", "same"),
        (PROMPT, " Qh4#", " Qxh4#", "same"),  # what small models often say
        (PROMPT, " Qh4#", " Nc6", "legal"),
        (PROMPT, " Qh4#", " Nc4", "illegal"),
        (PROMPT, " Qh4#", "", "illegal"),
        (PROMPT, " Qh4#", " Qh4# 3. e4", "illegal"),
        (TWO_MATES, " Re8#", " Rh8#", "mate"),
        (TWO_MATES, " Re8#", " Kc7", "legal"),
    ],
)
def test_a_completion_is_judged_in_the_position_of_its_prompt(prompt, answer, completion, expected):
    assert judging.verdict(prompt, answer, completion) == expected
    assert judging.judge([prompt], [answer], [completion]) == [expected in ("exact", "same", "mate")]
    assert judging.is_mate(prompt, completion) == (expected in ("exact", "same", "mate"))


def test_where_the_answer_does_not_mate_only_it_is_accepted():
    assert judging.judge([TWO_MATES, TWO_MATES, TWO_MATES], [" Re7"] * 3, [" Re8#", " Re7", None]) == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(("plies", "number"), [(0, "1."), (1, "1..."), (2, "2."), (3, "2..."), (199, "100...")])
def test_every_half_move_has_a_number(plies, number):
    assert half_move_number(plies) == number


@pytest.mark.parametrize(
    "url", ["https://lichess.org/4MWQCxQ6/black#32", "https://lichess.org/4MWQCxQ6#31", "4MWQCxQ6/black#32", "4MWQCxQ6"]
)
def test_a_game_is_the_same_from_both_sides(url):
    assert notation.game_id(url) == "4MWQCxQ6"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 230))
def test_any_game_survives_notation_and_tokenizer(seed, plies):
    rng = np.random.default_rng(seed)
    board = chess.Board()
    for _ in range(plies):
        legal = list(board.legal_moves)
        if not legal:
            break
        board.push(legal[int(rng.integers(len(legal)))])
    text = movetext(san_line(board))
    assert board_of(text).fen() == board.fen()
    position = notation.fen_text(board)
    assert board_of(position).fen() == board.fen()
    tokenizer = chess_tokenizer()
    for shown in (text, position, *(f" {san}" for san in san_line(board)[-3:])):
        ids = tokenizer(shown)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == shown
        assert tokenizer.convert_tokens_to_ids(UNKNOWN) not in ids


def test_tokens_are_pieces_squares_and_numbers_in_moves_and_single_characters_in_positions():
    tokenizer = chess_tokenizer()
    assert tokenizer.tokenize("12. Nbxd7+ 12... e8=Q#") == [
        "12.",
        " N",
        "b",
        "x",
        "d7",
        "+",
        " 12...",
        " e8",
        "=",
        "Q",
        "#",
    ]
    board = "r1b2r2/8/8/8/8/8/8/1b3b2"
    assert tokenizer.tokenize(f"{board} b - e3 0 4 4...") == [*board, " b", " -", " e3", " 0", " 4", " 4..."]
    ids = tokenizer(" Qxf7#")["input_ids"]
    both = tokenizer("1. e4 1... e5 2.", add_special_tokens=False)["input_ids"]
    whole = tokenizer("1. e4 1... e5 2. Qxf7#", add_special_tokens=False)["input_ids"]
    assert both + ids[1:] == whole  # prompt and answer can be tokenised apart


def test_a_chess_corpus_is_its_games_up_to_the_mate(tmp_path, monkeypatch):
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    corpus = ChessCorpus(self_play=SelfPlay(puzzles=5))
    check_corpus(corpus)
    texts = read_texts(corpus)
    assert len(texts) == 5
    assert all(board_of(text).is_checkmate() for text in texts)
    assert tokenizer_for(corpus).vocab_size == corpus_tokens(corpus)
    shown = ChessCorpus(self_play=SelfPlay(puzzles=5), show="fen")
    assert [text.split()[-1] for text in read_texts(shown)] == [text.split()[-1] for text in texts]
    assert (
        len({corpus_fingerprint(c) for c in (corpus, shown, ChessCorpus(self_play=SelfPlay(puzzles=5, seed=1)))}) == 3
    )


def test_games_of_files_are_read_as_movetext(tmp_path):
    uci = write_csv(tmp_path / "games.csv", [["f2f3 e7e5 g2g4 d8h4"]], ["moves_uci"])
    pgn = tmp_path / "games.pgn.gz"
    with gzip.open(pgn, "wt") as file:
        file.write('[Event "a"]\n\n1. f3 e5 { a comment } 2. g4 (2. e4) Qh4# 0-1\n\n[Event "b"]\n\n1. e4 *\n')
    texts = read_texts(ChessCorpus(self_play=None, files=(str(uci), str(pgn))))
    mate = "1. f3 1... e5 2. g4 2... Qh4#"
    assert texts == [mate, mate, "1. e4"]
    positions = read_texts(ChessCorpus(self_play=None, files=(str(uci),), show="fen"))
    assert len(positions) == 4
    assert positions[0] == "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1 1. f3"


def test_an_illegal_game_of_a_corpus_is_refused_with_its_line(tmp_path):
    path = write_csv(tmp_path / "games.csv", [["e2e4"], ["e2e5"]], ["moves_uci"])
    with pytest.raises(DataError, match=r"games\.csv, line 3: move e2e5 is illegal"):
        read_texts(ChessCorpus(self_play=None, files=(str(path),)))
    pgn = tmp_path / "games.pgn"
    pgn.write_text("1. e4 e5 2. Ke3 *\n")
    with pytest.raises(DataError, match=r"games\.pgn, game 1: illegal san"):
        read_texts(ChessCorpus(self_play=None, files=(str(pgn),)))


def test_real_games_become_text(shared_data):
    texts = read_texts(
        ChessCorpus(self_play=None, files=(str(shared_data / "chess" / "lichess_games_986_uci.csv.gz"),))
    )
    assert len(texts) == 986
    assert sum(len(text.split()) for text in texts) == 2 * 66_292


def test_play_depends_on_its_stream_alone():
    first, second = (selfplay.play(stream(0, Role.PUZZLES, 5), mate_in=1, max_plies=40) for _ in range(2))
    assert first == second


def test_a_chess_task_has_parts_of_prompts_answers_and_tags(tmp_path, monkeypatch):
    monkeypatch.setenv("W2S_CACHE", str(tmp_path))
    data = load_task(task(self_play={"puzzles": 40}, show="moves"))
    assert data.form == "generate"
    assert set(data.frame["part"]) == {"supervise", "transfer/0", "validation", "test"}
    assert data.frame["example_id"].n_unique() == 40
    for row in data.part("test").iter_rows(named=True):
        assert judging.is_mate(row["prompt"], row["answer"])
        assert row["tags"][0] == "theme:mateIn1"
    assert judge_of(task()) is judging.accepted
