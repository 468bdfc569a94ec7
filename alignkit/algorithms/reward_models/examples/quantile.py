"""Quantiles by hand: three of them, an answer rated 2 and one that was not rated."""

from math import exp, log, nan

from alignkit.types.example import WorkedExample

SAID = (0.0, log(exp(3) - 1), log(exp(6) - 1))  # softplus 3 and 6, over 3 levels: steps of 1 and 2

EXAMPLES = (
    # q = 0 1 3 at the levels 1/4 1/2 3/4, y = 2, u = 2 1 -1: rho = 1/4 2, 1/2 1, (1 - 3/4) 1
    WorkedExample(
        settings={"levels": 3},
        batch={"channels": {"rating": (2.0, nan)}},
        outputs={"values": (((0.0, 0.0, 0.0), SAID), ((0.0, 0.0, 0.0), SAID))},
        loss={"reward": (0.5 + 0.5 + 0.25) / 3},
        judged={"value": (4 / 3, 4 / 3), "parts": {"rating": (4 / 3, 4 / 3)}, "spread": ((0.0, 1.0, 3.0),) * 2},
    ),
    # free to cross: q = 1 0 at the levels 1/3 2/3, y = 3/2, u = 1/2 3/2: rho = 1/6 and 1;  q = 2 4, which nobody rated
    WorkedExample(
        settings={"objectives": ("right", "short"), "levels": 2, "monotone": False},
        batch={"channels": {"right": (1.5,), "short": (nan,)}},
        outputs={"values": (((0.0,) * 4, (1.0, 0.0, 2.0, 4.0)),)},
        loss={"reward": 7 / 6 / 2},
        metrics={"quantiles/crossing_frac": 0.5},
        judged={"value": (1.75,), "parts": {"right": (0.5,), "short": (3.0,)}, "spread": ((1.5, 2.0),)},
    ),
)
