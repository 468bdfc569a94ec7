"""A game outside of the package: the policy may roll a die, and is paid for saying what the die showed."""

import random

from alignkit.environments.base import Observation

shown = {"die": 0}  # one process for each episode: the tool and the game share it


def roll(sides: int = 6) -> int:
    """Rolls a die.

    Args:
        sides: How many sides it has.
    """
    shown["die"] = shown["random"].randint(1, sides)
    return shown["die"]


class dice:
    """A turn costs 0.1, the right number pays 1 and ends the game."""

    def __init__(self, turns=3):
        self.left = turns

    async def start(self, task, seed):
        shown["random"] = random.Random(seed)
        return Observation(text="roll, then say what it shows")

    async def step(self, text):
        self.left -= 1
        right = text.strip() == str(shown["die"])
        return Observation(
            text="no",
            reward=1.0 if right else -0.1,
            done=right or not self.left,
            success=right,
            info={"die": shown["die"]},
        )
