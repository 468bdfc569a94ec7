"""LMRL-Gym's Chess: White against a scripted Black; FEN is read, SAN is said. 1 for a win, -1 for a loss.

Observations, actions and rewards as in arXiv 2311.18232: letters with spaces between them, 0 for a draw and every
other move, -1 for each illegal move, after which the position is the same. There Black is Stockfish of Elo 1200 at
100 ms a move, which no seed replays; here it is a script, or a UCI engine of your own that looks at so many nodes, so
returns are not comparable with published ones. Not repeated from the
reference (abdulhaim/LMRL-Gym at 911d726b5b37): a null move, `--`, ends the game there and is illegal here; 400 moves
are 400, not 401. Needs python-chess: pip install chess.
"""

from __future__ import annotations

import shutil
from abc import abstractmethod
from types import ModuleType
from typing import Any

import numpy as np

from alignkit.environments.base import Game, Observation
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

WORTH = (0, 1, 3, 3, 5, 9, 0)  # of none, pawn, knight, bishop, rook, queen, king


class ChessGame(Game):
    """board: a chess.Board. White is to move whenever the policy is asked."""

    board: Any

    def __init__(self, *, max_moves: int):
        super().__init__()
        if max_moves < 1:
            raise EpisodeError(f"{type(self).__name__}: max_moves is {max_moves}; wanted at least 1")
        self._rules, self._left = rules(), max_moves

    def choices(self) -> list[str]:
        return sorted(spaced(self.board.san(move)) for move in self.board.legal_moves)

    def _begin(self, task: Task, random: np.random.Generator) -> Observation:
        self._random = random
        self.board = self._first_board(random)
        return Observation(text=spaced(self.board.fen()), success=False)

    def _act(self, text: str) -> Observation:
        self._left -= 1
        move = self._move("".join(text.split()))
        if move is None:
            return Observation(text=spaced(self.board.fen()), reward=-1.0, done=self._left == 0, success=False)
        self.board.push(move)
        won = self.board.is_checkmate()
        if not self.board.is_game_over():
            self.board.push(self._reply())
        lost = not won and self.board.is_checkmate()
        over = self._left == 0 or self.board.is_game_over()
        return Observation(text=spaced(self.board.fen()), reward=float(won - lost), done=over, success=won)

    def _move(self, said: str) -> Any:
        """The legal move that was said, or None."""
        try:
            move = self.board.parse_san(said)
        except ValueError:
            return None
        return move if move else None  # a null move is falsy

    @abstractmethod
    def _first_board(self, random: np.random.Generator) -> Any: ...

    @abstractmethod
    def _reply(self) -> Any: ...


class Chess(ChessGame):
    """A whole game. `best` mates where it can and else takes what is worth most: scripted, no optimum."""

    def __init__(self, *, opponent: str, nodes: int, max_moves: int):
        super().__init__(max_moves=max_moves)
        if opponent not in ("random", "greedy") and shutil.which(opponent) is None:
            raise EpisodeError(f"chess: opponent is {opponent!r}; wanted random, greedy or the path of a UCI engine")
        self._opponent, self._nodes, self._engine = opponent, nodes, None

    def close(self) -> None:
        """Ends the engine, where there is one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def best(self) -> str:
        return spaced(self.board.san(self._greedy()[0]))

    def _first_board(self, random: np.random.Generator) -> Any:
        return self._rules.Board()

    def _reply(self) -> Any:
        if self._opponent not in ("random", "greedy"):
            return self._engine_reply()
        moves = self._greedy() if self._opponent == "greedy" else self._sorted_moves()
        return moves[int(self._random.integers(len(moves)))]

    def _engine_reply(self) -> Any:
        import chess.engine

        if self._engine is None:  # a fresh one for every game: what it remembers of others would change its moves
            self._engine = chess.engine.SimpleEngine.popen_uci(self._opponent)
            if "Threads" in self._engine.options:
                self._engine.configure({"Threads": 1})
        return self._engine.play(self.board, chess.engine.Limit(nodes=self._nodes)).move

    def _greedy(self) -> list[Any]:
        """The moves that mate, else those that take most, in the order of their names."""
        worths = [(self._worth(move), move) for move in self._sorted_moves()]
        most = max(worth for worth, _ in worths)
        return [move for worth, move in worths if worth == most]

    def _worth(self, move: Any) -> int:
        self.board.push(move)
        mates = self.board.is_checkmate()
        self.board.pop()
        taken = self.board.piece_type_at(move.to_square) or 0
        return 100 if mates else WORTH[taken] + WORTH[move.promotion or 0]

    def _sorted_moves(self) -> list[Any]:
        return sorted(self.board.legal_moves, key=lambda move: move.uci())


def chess(*, opponent: str = "greedy", nodes: int = 1000, max_moves: int = 400) -> Chess:
    """One game with White.

    opponent: `greedy` mates or takes what is worth most, `random`, or the path of a UCI engine such as Stockfish, which
    looks at `nodes` positions a move: on one thread that replays, as neither the clock nor an Elo handicap does.

    Reads: the position, `r n b q k b n r / p p p ...` (FEN)
    Says: a move, `N f 3` or `Nf3` (SAN)
    Pays: 1 for a win, -1 for a loss and for each illegal move, else 0
    Ends: with the game, or after `max_moves` texts
    Optimum: unknown; scripted play is there for data
    """
    return Chess(opponent=opponent, nodes=nodes, max_moves=max_moves)


def rules() -> ModuleType:
    """python-chess. Raises EpisodeError, with the cure, when it is not installed."""
    try:
        import chess
    except ImportError:
        raise EpisodeError("chess and endgames need python-chess: pip install chess") from None
    return chess


def spaced(text: str) -> str:
    """Every character a token of its own: `e4` as `e 4`."""
    return " ".join(text)
