"""The exact distance to mate of king and queen, or king and rook, against a king, by retrograde analysis."""

from __future__ import annotations

from functools import cache

import numpy as np

NEVER = 9999
SQUARES = np.arange(64)
RANK, FILE = SQUARES // 8, SQUARES % 8


class Tablebase:
    """white, black: half-moves to mate under best play of both, NEVER for no win, with that side to move.

    Indexed by (black king, white king, piece), the board turned so that the black king stands in the triangle of
    a1, d1 and d4.
    """

    def __init__(self, piece: str):
        if piece not in "QR" or len(piece) != 1:
            raise ValueError(f"tablebase: piece is {piece!r}; wanted Q or R")
        self._turn, self._corner = _turns()
        self._attacks = _attacks(piece)
        self.white, self.black = self._solve()

    def to_mate(self, white_to_move: bool, black_king: int, white_king: int, piece: int) -> int:
        """Half-moves to mate, squares numbered from a1 along the ranks; NEVER when it cannot be won."""
        values = self.white if white_to_move else self.black
        return int(values[self._index(np.array(black_king), np.array(white_king), np.array(piece))])

    def _index(self, black_king: np.ndarray, white_king: np.ndarray, piece: np.ndarray) -> np.ndarray:
        turn, corner = self._turn, self._corner
        way = corner[black_king, 0]
        return (corner[black_king, 1] * 64 + turn[way, white_king]) * 64 + turn[way, piece]

    def _solve(self) -> tuple[np.ndarray, np.ndarray]:
        """W = 1 + min B over White's moves; B = 0 at mate, NEVER at stalemate and where the piece can be taken, else
        1 + max W over Black's; repeated until nothing changes."""
        triangle = np.array(sorted({int(square) for square in SQUARES if self._corner[square, 0] == 0}))
        triangle = triangle[np.argsort(self._corner[triangle, 1])]
        black, white, piece = (grid.ravel() for grid in np.meshgrid(triangle, SQUARES, SQUARES, indexing="ij"))
        near = (abs(RANK[:, None] - RANK) <= 1) & (abs(FILE[:, None] - FILE) <= 1)
        sound = (black != white) & (black != piece) & (white != piece) & ~near[black, white]
        checked = self._attacks[piece, black, white]
        moves = [self._white_move(black, white, piece, to, near) for to in SQUARES]
        moves += [self._piece_move(black, white, piece, to) for to in SQUARES]
        moves = [(allowed & sound, index) for allowed, index in moves if allowed.any()]
        replies, takes, stuck = [], np.zeros_like(sound), sound.copy()
        for to in SQUARES:
            free = near[black, to] & (black != to) & ~near[white, to] & (white != to)
            takes |= free & (piece == to)
            flees = free & (piece != to) & ~self._attacks[piece, to, white]
            stuck &= ~flees
            if flees.any():
                replies.append((flees, self._index(np.full_like(black, to), white, piece)))
        stuck &= ~takes
        mated = stuck & checked & sound
        whites = np.full(len(black), NEVER)
        blacks = np.where(mated, 0, NEVER)
        while True:
            new = np.full(len(black), NEVER)
            for allowed, index in moves:
                np.minimum(new, np.where(allowed, blacks[index] + 1, NEVER), out=new)
            new[checked | ~sound] = NEVER  # Black in check with White to move cannot be
            worst = np.zeros(len(black), dtype=new.dtype)
            for flees, index in replies:
                np.maximum(worst, np.where(flees, np.minimum(new[index] + 1, NEVER), 0), out=worst)
            blacks = np.where(mated, 0, np.where(stuck | takes | ~sound, NEVER, worst))
            if (new == whites).all():
                return whites, blacks
            whites = new

    def _white_move(self, black, white, piece, to, near) -> tuple[np.ndarray, np.ndarray]:
        allowed = near[white, to] & (white != to) & (piece != to) & ~near[black, to]
        return allowed, self._index(black, np.full_like(white, to), piece)

    def _piece_move(self, black, white, piece, to) -> tuple[np.ndarray, np.ndarray]:
        clear = self._attacks[piece, to, white] & self._attacks[piece, to, black]
        return clear & (white != to) & (black != to), self._index(black, white, np.full_like(piece, to))


@cache
def tablebase(piece: str) -> Tablebase:
    """That of `Q` or `R`, made once in about a second."""
    return Tablebase(piece)


def _attacks(piece: str) -> np.ndarray:
    """Whether a piece on [a] reaches [b] over an empty board but for one blocker on [c]; bool, 64 x 64 x 64."""
    down, right = RANK[None] - RANK[:, None], FILE[None] - FILE[:, None]
    straight = (down == 0) ^ (right == 0)
    line = straight | ((piece == "Q") & (abs(down) == abs(right)) & (down != 0))
    length = np.maximum(abs(down), abs(right))
    # c lies between a and b when it is on the same ray and nearer
    same_ray = (np.sign(down)[:, :, None] == np.sign(down)[:, None]) & (
        np.sign(right)[:, :, None] == np.sign(right)[:, None]
    )
    same_ray &= line[:, None] & line[:, :, None]
    return line[:, :, None] & ~(same_ray & (length[:, None] < length[:, :, None]) & (length[:, None] > 0))


def _turns() -> tuple[np.ndarray, np.ndarray]:
    """(the 8 symmetries of the board as 8 x 64 squares; for each square the symmetry that brings it into the triangle
    and its place in there)."""
    turns = []
    for mirrored in (False, True):
        for ranks in (RANK, 7 - RANK):
            for files in (FILE, 7 - FILE):
                turns.append(files * 8 + ranks if mirrored else ranks * 8 + files)
    inside = [square for square in range(64) if FILE[square] <= 3 and RANK[square] <= FILE[square]]
    places = {square: place for place, square in enumerate(inside)}
    corner = []
    for square in range(64):
        way = next(way for way, turned in enumerate(turns) if int(turned[square]) in places)
        corner.append((way, places[int(turns[way][square])]))
    return np.array(turns), np.array(corner)
