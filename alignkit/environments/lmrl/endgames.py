"""LMRL-Gym's Endgames: mate a lone king with king and queen, or king and rook. 1 for mate, -1 an illegal move.

Positions are drawn as in arXiv 2311.18232: pieces on free squares until the position is legal with White to move. Of
its four sets, kQK and kRK are here, whose best play is known exactly; kQRK and kRRK are not. Black defends as long as
it can. Not repeated from the reference (abdulhaim/LMRL-Gym at 911d726b5b37): positions come from the episode's seed
and not from a global generator, and Black's move does not hang on the clock. Each has a test.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from alignkit.environments.lmrl.chess import ChessGame, spaced
from alignkit.environments.lmrl.retrograde import Tablebase, tablebase
from alignkit.errors import EpisodeError

SETS = {"kQK": "Q", "kRK": "R"}


class Endgames(ChessGame):
    """pieces: k, the white piece, K."""

    def __init__(self, *, pieces: str, opponent: str, max_moves: int):
        super().__init__(max_moves=max_moves)
        if pieces not in SETS or opponent not in ("best", "random"):
            raise EpisodeError(
                f"endgames: wanted pieces {' or '.join(SETS)} and opponent best or random; got {pieces!r}, {opponent!r}"
            )
        self._pieces, self._opponent = pieces, opponent

    def best(self) -> str:
        """The move, first by its name, after which mate is nearest."""
        return min((self._after(move), spaced(self.board.san(move))) for move in self.board.legal_moves)[1]

    def moves_to_mate(self) -> int:
        """White's moves until mate under best play of both."""
        return (self._table().to_mate(True, *self._squares()) + 1) // 2

    def _first_board(self, random: np.random.Generator) -> Any:
        board = self._rules.Board(None)
        while True:
            board.clear()
            for symbol, square in zip(self._pieces, random.permutation(64).tolist(), strict=False):
                board.set_piece_at(square, self._rules.Piece.from_symbol(symbol))
            if board.is_valid() and not board.is_check():
                return board

    def _reply(self) -> Any:
        moves = sorted(self.board.legal_moves, key=lambda move: move.uci())
        if self._opponent == "random":
            return moves[int(self._random.integers(len(moves)))]
        return max(moves, key=self._after)

    def _after(self, move: Any) -> int:
        """Half-moves to mate after a move."""
        self.board.push(move)
        whites = self.board.turn == self._rules.WHITE
        bare = chess_pieces(self.board) < 3
        distance = 10**6 if bare else self._table().to_mate(whites, *self._squares())
        self.board.pop()
        return distance

    def _table(self) -> Tablebase:
        return tablebase(SETS[self._pieces])

    def _squares(self) -> tuple[int, int, int]:
        white, black = self._rules.WHITE, self._rules.BLACK
        piece = next(square for square, one in self.board.piece_map().items() if one.symbol() == self._pieces[1])
        return self.board.king(black), self.board.king(white), piece


def chess_pieces(board: Any) -> int:
    """How many pieces stand on a board."""
    return len(board.piece_map())


def endgames(*, pieces: str = "kQK", opponent: str = "best", max_moves: int = 50) -> Endgames:
    """One endgame with White.

    Reads: the position, `8 / 8 / 3 k ...` (FEN)
    Says: a move, `Q d 5` or `Qd5` (SAN)
    Pays: 1 for mate, -1 for each illegal move, else 0
    Ends: mate, draw, or after `max_moves` texts
    Optimum: exact, by retrograde analysis (`tablebase`): 1 from every position, in at most 10 or 16 moves
    """
    return Endgames(pieces=pieces, opponent=opponent, max_moves=max_moves)
