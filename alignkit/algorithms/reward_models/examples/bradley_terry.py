"""Bradley-Terry by hand: a pair of answers of one token, with a margin, and with the contrast of states."""

from math import exp, log

from alignkit.types.example import WorkedExample

STATE = (1.0, *(0.0,) * 15)
START = (0.0,) * 17

EXAMPLES = (
    # r_w - r_l - margin = 1 + log 3 - 0 - (2 - 1) = log 3:  log(4/3) + 0.01 (r_w + r_l)^2
    WorkedExample(
        settings={"margin": "rewards"},
        batch={"side": (1, -1), "reward": (2.0, 1.0)},
        outputs={"values": ((0.0, 1 + log(3)), (0.0, 0.0))},
        loss={"reward": log(4 / 3) + 0.01 * (1 + log(3)) ** 2},
        metrics={"pairs/margin": 1 + log(3)},
        judged={"value": (1 + log(3), 0.0), "members": None},
    ),
    # the one state of a token is its own goal, cosine 1, over the temperature 2: C = -log sigmoid(2) of the chosen,
    # -log sigmoid(-2) of the rejected answer, their mean
    WorkedExample(
        settings={"centring": 0.0, "contrast": 0.5},
        batch={"side": (1, -1)},
        outputs={"values": ((START, (log(3), *STATE)), (START, (0.0, *STATE)))},
        loss={"reward": log(4 / 3) + 0.5 * (log(1 + exp(-2)) + log(1 + exp(2))) / 2},
        metrics={"loss/contrast": (log(1 + exp(-2)) + log(1 + exp(2))) / 2, "pairs/margin": log(3)},
        judged={"value": (log(3), 0.0)},
    ),
)
