"""ODIN by hand: two pairs; the quality head likes the longer answers, the other head does not."""

from math import exp, log, sqrt

from alignkit.types.example import WorkedExample

START = (0.0, 0.0)

EXAMPLES = (
    # n = 2 1 1 2 less its mean = 1/2 -1/2 -1/2 1/2
    # q = 2 0 1 1 less its mean = 1 -1 0 0: correlation 1/sqrt(2);  l = 0 0 1 0 less its mean: -1/2 : sqrt(3/4)
    # s = 2 0 2 1: leads 2 and 1, sums 2 and 3
    WorkedExample(
        batch={"group": (0, 0, 1, 1), "side": (1, -1, 1, -1)},
        outputs={
            "values": (
                (START, START, (2.0, 0.0)),
                (START, (0.0, 0.0)),
                (START, (1.0, 1.0)),
                (START, START, (1.0, 0.0)),
            )
        },
        loss={
            "reward": (log(1 + exp(-2)) + log(1 + exp(-1)) + 0.01 * (4 + 9)) / 2 + 1 / sqrt(2) + 1 / sqrt(3),
        },
        metrics={
            "lengths/correlation": 1 / sqrt(2),
            "lengths/absorbed": -1 / sqrt(3),
            "pairs/margin": 1.0,
            "pairs/accuracy": 0.75,
        },
        judged={"value": (2.0, 0.0, 1.0, 1.0)},
    ),
)
