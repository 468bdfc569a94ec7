"""Wordle over one of LMRL-Gym's word lists: five letters, six words, and `g` `y` `b` for each letter. -1 a wrong word.

Observations, actions and rewards as in arXiv 2311.18232: letters and colours with spaces between them, a text that is
no word of the list answered by an empty line. Not repeated from the reference (abdulhaim/LMRL-Gym at 911d726b5b37):
there a letter that the guess has twice and the word once is yellow twice, and what is known of doubled letters is
lost with it; the word is drawn again before every answer, with a generator that all games share. Each has a test.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from alignkit.environments.base import Game, Observation
from alignkit.environments.lmrl.data_files import shared_file
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

LENGTH = 5
RIGHT = 3**LENGTH - 1
EXACT = 60  # so many words are played perfectly, longer lists by the largest expected information


class Wordle(Game):
    """possible: the places in the list of the words that agree with all colours so far, in the list's order."""

    possible: tuple[int, ...]

    def __init__(self, *, words: str, tries: int):
        super().__init__()
        if tries < 1:
            raise EpisodeError(f"wordle: tries is {tries}; wanted at least 1")
        self._words, self._left = word_list(words), tries

    def choices(self) -> list[str]:
        return [" ".join(word) for word in self._words]

    def best(self) -> str:
        return " ".join(best_word(self._words, self.possible, self._left))

    def _begin(self, task: Task, random: np.random.Generator) -> Observation:
        self.possible = tuple(range(len(self._words)))
        self._secret = self._words[int(random.integers(len(self._words)))]
        return Observation(text="Wordle:\n", success=False)

    def _act(self, text: str) -> Observation:
        said = "".join(text.split())
        self._left -= 1
        over = self._left == 0
        if said not in _places(self._words):
            return Observation(text="\n", reward=-1.0, done=over, success=False)
        seen = colours(said, self._secret)
        told = " ".join(seen) + "\n"
        if said == self._secret:
            return Observation(text=told, done=True, success=True)
        codes, code = _codes(self._words, _places(self._words)[said]), _code(seen)
        self.possible = tuple(place for place in self.possible if codes[place] == code)
        return Observation(text=told, reward=-1.0, done=over, success=False)


def wordle(*, words: str = "wordle_official_400.txt", tries: int = 6) -> Wordle:
    """One game; `words` is a file of `multiturn/` in the data's folder.

    Reads: `b y g b b`, an empty line after what is no word
    Says: a word, `c r a n e` or `crane`
    Pays: -1 a word that is not the right one, 0 for that
    Ends: right, or after `tries` texts
    Optimum: up to 60 words exact by dynamic programming (-1.325 for `tweet_words.txt`); scripted beyond
    """
    return Wordle(words=words, tries=tries)


@cache
def word_list(file: str) -> tuple[str, ...]:
    """The five-letter words of a file, one a line, in its order, each once."""
    words = [line.strip() for line in shared_file(file).splitlines()]
    return tuple(dict.fromkeys(word for word in words if len(word) == LENGTH and word.isascii() and word.islower()))


def colours(guess: str, secret: str) -> str:
    """A letter for each of the guess: `g` in its place, `y` in the word elsewhere, `b` not in it. Of a letter that the
    guess has more often than the secret, so many are yellow, from the left, as the secret has besides the green ones.
    """
    left = [theirs for mine, theirs in zip(guess, secret, strict=True) if mine != theirs]
    seen = []
    for mine, theirs in zip(guess, secret, strict=True):
        if mine == theirs:
            seen.append("g")
        elif mine in left:
            left.remove(mine)
            seen.append("y")
        else:
            seen.append("b")
    return "".join(seen)


def best_word(words: tuple[str, ...], possible: tuple[int, ...], left: int) -> str:
    """What to say next: the exact optimum of a short list; else the possible word of the largest expected information,
    the first of several."""
    if len(words) <= EXACT:
        return words[_solve(words, possible, left)[1]]
    return words[_informative(words, possible)]


def least_cost(words: tuple[str, ...], left: int = 6) -> int:
    """Wrong words of best play with `left` tries, summed over every secret of the list. Any word may be said."""
    return _solve(words, tuple(range(len(words))), left)[0]


@cache
def _solve(words: tuple[str, ...], possible: tuple[int, ...], left: int) -> tuple[int, int]:
    """(the least sum of wrong words over all that is possible, the word to say).

    A word costs 1 for every secret but itself, and then what is left of each class of equal colours. A class of n
    costs at least n - 1 more, which bounds most words away.
    """
    if len(possible) == 1 or left == 1:
        return len(possible) - 1, possible[0]
    inside = set(possible)
    tried = []
    for guess in range(len(words)):
        codes, classes = _codes(words, guess), {}
        for place in possible:
            classes.setdefault(codes[place], []).append(place)
        classes.pop(RIGHT, None)
        wrong = len(possible) - (guess in inside)
        tried.append((wrong + sum(len(others) - 1 for others in classes.values()), guess not in inside, guess, classes))
    tried.sort(key=lambda one: one[:3])
    best: tuple[int, int] | None = None
    for bound, _, guess, classes in tried:
        if best is not None and bound >= best[0]:
            break
        if len(classes) == 1 and guess not in inside:
            continue  # it tells nothing
        cost = bound
        for others in classes.values():
            cost += _solve(words, tuple(others), left - 1)[0] - (len(others) - 1)
        if best is None or cost < best[0]:
            best = cost, guess
    return best or (len(possible) - 1, possible[0])


@cache
def _informative(words: tuple[str, ...], possible: tuple[int, ...]) -> int:
    """The possible word whose colours leave the least sum of n log n over the classes of n words."""
    places = np.array(possible)

    def remaining(guess: int) -> float:
        sizes = np.unique(_codes(words, guess)[places], return_counts=True)[1]
        return round(float((sizes * np.log(sizes)).sum()), 9)

    return min(possible, key=lambda guess: (remaining(guess), guess))


@cache
def _codes(words: tuple[str, ...], guess: int) -> np.ndarray:
    """`_code(colours(words[guess], secret))` for every secret of the list."""
    letters = _letters(words)
    said = letters[guess]
    green = letters == said
    codes = np.zeros(len(words), dtype=np.int64)
    for at in range(LENGTH):
        same = said == said[at]
        besides = ((letters == said[at]) & ~green).sum(axis=1)
        earlier = (same[:at] & ~green[:, :at]).sum(axis=1)
        yellow = ~green[:, at] & (besides > earlier)
        codes = codes * 3 + np.where(green[:, at], 2, yellow)
    return codes


def _code(seen: str) -> int:
    """Colours as a number to base 3."""
    code = 0
    for colour in seen:
        code = code * 3 + "byg".index(colour)
    return code


@cache
def _letters(words: tuple[str, ...]) -> np.ndarray:
    return np.array([[ord(letter) for letter in word] for word in words])


@cache
def _places(words: tuple[str, ...]) -> dict[str, int]:
    return {word: place for place, word in enumerate(words)}
