"""LMRL-Gym's Car Dealer: sell a car to a buyer whose wishes, budget and patience are hidden. It pays at the sale.

Buyers are drawn as in arXiv 2311.18232: a personality, a brand, a type, features and a budget. There a network plays
the buyer and writes the price of the deal itself; here a script does, so that seeds replay and the best play can be
computed. Not repeated from the reference (abdulhaim/LMRL-Gym at 911d726b5b37): a refused sale that pays more than a
good one (`-(budget - msrp) / msrp` is positive when the list price is above the budget), a list price that the buyer
makes up, and batches whose seeds never reach the buyer. Each has a test.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import numpy as np

from alignkit.environments.base import Game, Observation
from alignkit.errors import EpisodeError
from alignkit.types.task import Task

BUDGETS = (10_000, 30_000, 50_000, 70_000, 90_000)
BRANDS = (
    "Volkswagen", "Lexus", "Ford", "Mazda", "Hyundai", "Toyota", "Mercedes-Benz", "BMW", "Audi", "Subaru", "Honda",
    "Porsche", "Tesla",
)  # fmt: skip
TYPES = ("luxury", "sedan", "convertible", "truck", "electric", "SUV")
FEATURES = (
    "backup camera", "navigation system", "heated seats", "leather seats", "third-row seating",
    "blind spot monitoring", "sunroof", "Apple CarPlay",
)  # fmt: skip
PATIENCE = {
    "polite": 3, "respectful": 3, "talkative": 3, "sarcastic": 2, "uncommunicative": 2, "rude": 2, "angry": 1,
    "insulting": 1, "abusive": 1, "toxic": 1,
}  # fmt: skip
TELLS = ("polite", "respectful", "talkative")  # who says what they can spend
WORTH = 0.8  # of the budget is paid for any car, and the rest for one with all that is wished for
PRICE = re.compile(r"\$\s?([0-9][0-9,]{0,11})")


class Buyer(NamedTuple):
    """budget: in dollars. features: one to four."""

    personality: str
    brand: str
    type: str
    features: tuple[str, ...]
    budget: int

    @property
    def wishes(self) -> tuple[str, ...]:
        return (self.brand, self.type, *self.features)


class CarDealer(Game):
    """offered: the wishes that the dealer has named so far. refused: prices that were too high."""

    buyer: Buyer

    def __init__(self, *, reward: str, max_turns: int):
        super().__init__()
        if reward not in ("revenue", "fancy") or max_turns < 1:
            raise EpisodeError(
                f"car_dealer: wanted reward revenue or fancy and max_turns >= 1; got {reward!r} and {max_turns}"
            )
        self._reward, self._left = reward, max_turns
        self.offered: frozenset[str] = frozenset()
        self.refused: list[int] = []
        self._asked: set[str] = set()

    def choices(self) -> list[str]:
        return [
            *QUESTIONS.values(),
            *(self._car(price) for budget in BUDGETS for price in (budget, limit_of_any(budget))),
        ]

    def best(self) -> str:
        unasked = [topic for topic in QUESTIONS if topic not in self._asked]
        if unasked:
            return QUESTIONS[unasked[0]]
        told = self.buyer.personality in TELLS
        possible = tuple(budget for budget in BUDGETS if budget < min(self.refused, default=10**9))
        left = PATIENCE[self.buyer.personality] - len(self.refused)
        price = self.buyer.budget if told else possible[best_offer(possible, left)]
        return self._car(price)

    def _car(self, price: int) -> str:
        """An offer of what the buyer has asked for so far."""
        buyer, asked = self.buyer, self._asked
        told = [buyer.brand] * ("brand" in asked) + [buyer.type] * ("type" in asked)
        named = ", ".join([*told, *(buyer.features if "feature" in asked else ())])
        return f"I have {named or 'a car'} for ${price:,}."

    def _begin(self, task: Task, random: np.random.Generator) -> Observation:
        def one(options: tuple) -> str:
            return options[int(random.integers(len(options)))]

        features = random.permutation(len(FEATURES))[: int(random.integers(1, 5))]
        self.buyer = Buyer(
            one(tuple(PATIENCE)),
            one(BRANDS),
            one(TYPES),
            tuple(FEATURES[at] for at in sorted(features.tolist())),
            BUDGETS[int(random.integers(len(BUDGETS)))],
        )
        return Observation(text="Start\n", success=False)

    def _act(self, text: str) -> Observation:
        self._left -= 1
        self.offered |= {wish for wish in self.buyer.wishes if wish.lower() in text.lower()}
        price = offer(text)
        if price is None:
            over = self._left == 0
            return Observation(text=f"{self._answer(text)}\n", done=over, success=False)
        if 0 < price <= limit(self.buyer, self.offered):
            paid = payment(price, self.buyer, self._reward)
            return Observation(text=f"Accepted for ${price:,}.\n", reward=paid, done=True, success=True)
        self.refused.append(price)
        if len(self.refused) >= PATIENCE[self.buyer.personality]:
            return Observation(text="I am leaving. No deal.\n", done=True, success=False)
        missing = len(self.buyer.wishes) - len(self.offered)
        more = "It is not all that I wish for." if missing else "It is more than I can spend."
        return Observation(text=f"That is too much. {more}\n", done=self._left == 0, success=False)

    def _answer(self, text: str) -> str:
        buyer, asked = self.buyer, text.lower()
        topics = [topic for topic in QUESTIONS if topic in asked]
        self._asked |= set(topics)
        if buyer.personality == "uncommunicative" and len(topics) > 1:
            return "One thing at a time."
        told = {
            "brand": f"I want a {buyer.brand}.",
            "type": f"I want one of type {buyer.type}.",
            "feature": f"It should have {', '.join(buyer.features)}.",
            "budget": f"I can spend ${buyer.budget:,}." if buyer.personality in TELLS else "That is my business.",
        }
        return " ".join(told[topic] for topic in topics) or "What have you got, and for how much?"


QUESTIONS = {
    "brand": "Which brand do you want?",
    "type": "Which type of car do you want?",
    "feature": "Which features should it have?",
    "budget": "What is your budget?",
}


def car_dealer(*, reward: str = "revenue", max_turns: int = 25) -> CarDealer:
    """One conversation, the policy being the dealer.

    Reads: the buyer's answer in a sentence or two
    Says: questions on brand, type, features and budget; an offer is a text with a price, as in `a Ford for $30,000`
    Pays: at the sale, thousands of dollars (`revenue`) or price / ((budget + list price) / 2) (`fancy`); else 0
    Ends: sold, after 1 to 3 refused prices, or after `max_turns` texts
    Optimum: exact: 39.0 by dynamic programming over the budgets that are still possible (`optimal_mean`)
    """
    return CarDealer(reward=reward, max_turns=max_turns)


def offer(text: str) -> int | None:
    """The last price of a text in dollars; None when it has none."""
    prices = PRICE.findall(text)
    return int(prices[-1].replace(",", "")) if prices else None


def limit(buyer: Buyer, offered: frozenset[str]) -> int:
    """What a buyer pays at most: 0.8 of the budget, and the rest in proportion to the wishes that were named."""
    return int(buyer.budget * (WORTH + (1 - WORTH) * len(offered) / len(buyer.wishes)) + 0.5)


def limit_of_any(budget: int) -> int:
    """What is paid for a car of which nothing is known."""
    return round(WORTH * budget)


def payment(price: int, buyer: Buyer, reward: str) -> float:
    """The reward of a sale. The list price is the budget's: a car for what one can spend."""
    return price / 1000 if reward == "revenue" else price / buyer.budget


@cache
def offers_worth(budgets: tuple[int, ...], left: int) -> float:
    """The most that equally likely budgets bring in with `left` prices to name, in dollars summed over them.

    W(B, k) = max over b in B of b |{c in B: c >= b}| + W({c in B: c < b}, k - 1), W(B, 0) = 0.
    """
    return max(_worths(budgets, left), default=0.0)


def best_offer(budgets: tuple[int, ...], left: int) -> int:
    """The place of the best price in `budgets`, which rise."""
    worths = _worths(budgets, max(left, 1))
    return worths.index(max(worths))


def optimal_mean() -> float:
    """The largest expected `revenue` over all buyers, in thousands of dollars."""
    told = sum(BUDGETS) / len(BUDGETS)
    worth = [
        told if personality in TELLS else offers_worth(BUDGETS, patience) / len(BUDGETS)
        for personality, patience in PATIENCE.items()
    ]
    return sum(worth) / len(worth) / 1000


def _worths(budgets: tuple[int, ...], left: int) -> list[float]:
    if left == 0:
        return [0.0] * len(budgets)
    return [price * (len(budgets) - at) + offers_worth(budgets[:at], left - 1) for at, price in enumerate(budgets)]
