"""Chess and endgames of LMRL-Gym: the tablebase against the rules, illegal moves, an engine by nodes."""

from __future__ import annotations

import itertools

import pytest

from alignkit.environments.behaviour import play
from alignkit.environments.lmrl.retrograde import NEVER, tablebase
from alignkit.errors import EpisodeError
from tests.unit.test_lmrl import talk


def test_a_queen_mates_in_10_moves_at_most_and_a_rook_in_16():
    for piece, moves in (("Q", 10), ("R", 16)):
        table = tablebase(piece)
        assert (table.white[table.white < NEVER].max() + 1) // 2 == moves


def test_the_tablebase_agrees_with_the_rules_of_python_chess_on_random_positions():
    chess = pytest.importorskip("chess")
    from alignkit.environments.lmrl.endgames import endgames

    distances = []
    for seed, pieces in itertools.product(range(12), ("kQK", "kRK")):
        game = endgames(pieces=pieces)
        talk(game, seed)
        here, board = game._table().to_mate(True, *game._squares()), game.board
        assert board.turn == chess.WHITE
        afterwards = {move: game._after(move) for move in board.legal_moves}
        assert here == 1 + min(afterwards.values())
        for move in list(afterwards)[::5]:
            board.push(move)
            replies = [game._after(reply) for reply in board.legal_moves]
            after = 0 if board.is_checkmate() else NEVER if board.is_stalemate() else min(NEVER, 1 + max(replies))
            assert afterwards[move] == min(after, NEVER)
            board.pop()
        distances.append(here)
    assert len(set(distances)) > 6


def test_the_expert_mates_the_best_defender_in_exactly_the_moves_of_the_table():
    pytest.importorskip("chess")
    from alignkit.environments.lmrl.endgames import endgames

    for seed, pieces in ((0, "kQK"), (1, "kRK"), (2, "kRK")):
        game = endgames(pieces=pieces)
        talk(game, seed)
        turns = play(endgames(pieces=pieces), seed=seed, behaviour="expert", max_turns=50)
        assert len(turns) == game.moves_to_mate()
        assert [turn["reward"] for turn in turns] == [0.0] * (len(turns) - 1) + [1.0]


def test_illegal_and_null_moves_cost_1_and_leave_the_position():
    pytest.importorskip("chess")
    from alignkit.environments.lmrl.chess import chess

    seen = talk(chess(max_moves=5), 0, "--", "Ke4", "e 4 ", "", "e4e5e6")
    assert [one.reward for one in seen] == [0, -1, -1, 0, -1, -1]
    assert seen[0].text == seen[1].text == seen[2].text != seen[3].text
    assert [one.done for one in seen] == [False] * 5 + [True]  # a null move ends the reference's game


ENGINE = """#!{python}
import sys, chess
board = chess.Board()
for line in sys.stdin:
    words = line.split()
    if words[:1] == ["uci"]:
        print("id name first\\nuciok", flush=True)
    elif words[:1] == ["isready"]:
        print("readyok", flush=True)
    elif words[:1] == ["position"]:
        board = chess.Board()
        for move in words[words.index("moves") + 1:] if "moves" in words else []:
            board.push_uci(move)
    elif words[:1] == ["go"]:
        assert words[1:3] == ["nodes", "7"], words
        print("bestmove", min(move.uci() for move in board.legal_moves), flush=True)
    elif words[:1] == ["quit"]:
        break
"""


def test_a_uci_engine_answers_by_nodes_and_is_ended_by_close(tmp_path):
    pytest.importorskip("chess")
    import sys

    from alignkit.environments.lmrl.chess import chess

    engine = tmp_path / "first"
    engine.write_text(ENGINE.replace("{python}", sys.executable))
    engine.chmod(0o755)
    game = chess(opponent=str(engine), nodes=7)
    talk(game, 0, "e4", "d4")
    assert [move.uci() for move in game.board.move_stack] == ["e2e4", "a7a5", "d2d4", "a5a4"]
    game.close()
    assert game._engine is None
    with pytest.raises(EpisodeError, match="wanted random, greedy or the path of a UCI engine"):
        chess(opponent="./no-such-engine")


def test_chess_without_its_package_names_the_cure(monkeypatch):
    import sys

    from alignkit.environments.lmrl.chess import chess

    monkeypatch.setitem(sys.modules, "chess", None)
    with pytest.raises(EpisodeError, match="python-chess: pip install chess"):
        chess()
