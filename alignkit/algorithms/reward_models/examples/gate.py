"""A gate by hand: two objectives, of which the prompt asks for the first three times as much."""

from math import exp, log

from alignkit.types.example import WorkedExample

ASKED = (0.0, 0.0, 2 * log(3), 0.0, log(2))  # after the prompt: the gate, and log c
NONE = (0.0, 0.0, 0.0, 0.0, 0.0)

EXAMPLES = (
    # g = softmax(log 3, 0) = (3/4, 1/4), c = 2
    # r_w = 2 3/4 2 log 2 = 3 log 2,  r_l = 2 1/4 4 log 2 = 2 log 2:  -log sigmoid(log 2) = log(3/2)
    WorkedExample(
        settings={"objectives": ("right", "short"), "temperature": 2.0},
        batch={"side": (1, -1)},
        outputs={"values": ((ASKED, (2 * log(2), 0.0, 0.0, 0.0, 0.0)), (ASKED, (0.0, 4 * log(2), 0.0, 0.0, 0.0)))},
        loss={"reward": log(3 / 2)},
        metrics={"pairs/margin": log(2)},
        judged={
            "value": (3 * log(2), 2 * log(2)),
            "parts": {"gate right": (0.75, 0.75), "gate short": (0.25, 0.25)},
            "spread": None,
        },
        # by r_w and r_l -1/3 and 1/3.  r by gate k: c g_k (s_k - sum_j g_j s_j) / 2, by log c: r;  s are held fixed
        # by the first gate -1/3 3/8 log 2 + 1/3 (-3/4 log 2), by log c -1/3 3 log 2 + 1/3 2 log 2
        gradient={"values": (((0.0, 0.0, -3 / 8 * log(2), 3 / 8 * log(2), -log(2) / 3), NONE), (NONE, NONE))},
    ),
    # one objective, c = 2;  softplus 2 and 4 over 2 levels are steps of 1 and 2: quantiles 1 2 and 0 2, times c
    # means 3 and 2, -log sigmoid(1), by log c -sigmoid(-1) (3 - 2)
    WorkedExample(
        settings={"objectives": ("right",), "levels": 2},
        batch={"side": (1, -1)},
        outputs={
            "values": (
                ((0.0, 0.0, 5.0, log(2)), (1.0, log(exp(2) - 1), 0.0, 0.0)),
                ((0.0, 0.0, 5.0, log(2)), (0.0, log(exp(4) - 1), 0.0, 0.0)),
            )
        },
        loss={"reward": log(1 + exp(-1))},
        gradient={
            "values": (((0.0, 0.0, 0.0, -1 / (1 + exp(1))), (0.0,) * 4), ((0.0,) * 4, (0.0,) * 4)),
        },
        judged={"value": (3.0, 2.0), "parts": {"gate right": (1.0, 1.0)}, "spread": ((2.0, 4.0), (0.0, 4.0))},
    ),
)
