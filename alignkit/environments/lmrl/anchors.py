"""Scores between 0 and 100 from raw returns, as LMRL-Gym (arXiv 2311.18232) normalises them."""

from __future__ import annotations

from typing import NamedTuple


class Anchors(NamedTuple):
    """Raw returns that score 0 (the least), 50 (the mean of the published data set) and 100 (the most)."""

    least: float
    average: float
    most: float


ANCHORS = {
    "double_t_maze, full": Anchors(-101, -83, -6.84),
    "double_t_maze, partial": Anchors(-101, -83, -25.75),
    "chess": Anchors(-401, 0.21, 1),
    "endgames": Anchors(-1, 0.586, 1),
}
"""Published with the reference code (abdulhaim/LMRL-Gym at 911d726b5b37, maze/misc/compute_score_normalizations.py).

For Wordle, Text-Nav, 20 Questions, Guess My City and Car Dealer that file has none, so no score is given for them.
Three of them are not what they are called: a maze can pay less than -101 (100 illegal utterances pay -400), so can an
endgame pay less than -1 (every illegal move costs 1), and a partially observed maze can be played better than -25.75
(`double_t_maze.optimal_mean`). Scores below 0 and above 100 are therefore returned as they come out, never clipped.
"""


def normalised_score(environment: str, mean_return: float) -> float | None:
    """0 at the least return, 50 at the data's mean, 100 at the most, linear between them and beyond; None without
    published anchors.

    environment: a key of ANCHORS. mean_return: the mean undiscounted return of whole episodes.
    """
    if environment not in ANCHORS:
        return None
    least, average, most = ANCHORS[environment]
    if mean_return < average:
        return 50 * (mean_return - least) / (average - least)
    return 50 + 50 * (mean_return - average) / (most - average)
