"""ODIN by hand: two pairs; the quality head likes the longer answers, the other head does not."""

from math import exp, log, sqrt

from alignkit.types.example import WorkedExample

START = (0.0, 0.0)

UP, DOWN = 1 / (1 + exp(-2)), 1 / (1 + exp(1))  # sigmoid(2) and sigmoid(-1)
BT = ((UP - 1 + 0.04) / 2, (1 - UP + 0.04) / 2, (-DOWN + 0.06) / 2, (DOWN + 0.06) / 2)

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
        # of two pairs s leads by 2: -sigmoid(-2) and its opposite, and 0.02 2;  by 1: the same of 1 and 3
        # of a correlation: n / (|q| |n|) - corr q / |q|^2, |q|^2 = 2, |n|^2 = 1;  of l, whose |l|^2 = 3/4, its opposite
        gradient={
            "values": (
                (START, START, (BT[0], BT[0] - 2 / sqrt(27))),
                (START, (BT[1], BT[1] + 4 / sqrt(27))),
                (START, (BT[2] - 1 / sqrt(8), BT[2])),
                (START, START, (BT[3] + 1 / sqrt(8), BT[3] - 2 / sqrt(27))),
            )
        },
        judged={"value": (2.0, 0.0, 1.0, 1.0)},
    ),
    # the first pair's q the other way round: its correlation is negative, and |corr| and its slope count half
    WorkedExample(
        settings={"length_weight": 0.5, "centring": 0.0},
        batch={"group": (0, 0, 1, 1), "side": (1, -1, 1, -1)},
        outputs={
            "values": (
                (START, START, (0.0, 0.0)),
                (START, (2.0, 0.0)),
                (START, (1.0, 1.0)),
                (START, START, (1.0, 0.0)),
            )
        },
        loss={"reward": (log(1 + exp(2)) + log(1 + exp(-1))) / 2 + (1 / sqrt(2) + 1 / sqrt(3)) / 2},
        gradient={
            "values": (
                (START, START, (-UP / 2, -UP / 2 - 1 / sqrt(27))),
                (START, (UP / 2, UP / 2 + 2 / sqrt(27))),
                (START, (-DOWN / 2 + 1 / sqrt(32), -DOWN / 2)),
                (START, START, (DOWN / 2 - 1 / sqrt(32), DOWN / 2 - 1 / sqrt(27))),
            )
        },
    ),
)
