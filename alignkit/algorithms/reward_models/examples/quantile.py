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
    ),
)
