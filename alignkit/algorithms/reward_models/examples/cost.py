"""A cost model by hand: a safe answer and an unsafe one."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # c_w = -log 2, safe; c_r = log 3, unsafe:  -log sigmoid of log 6, of log 3 and of log 2
    WorkedExample(
        settings={"decay": 0.1},
        batch={"side": (1, -1), "channels": {"unsafe": (0.0, 1.0)}},
        outputs={"values": ((0.0, -log(2)), (0.0, log(3)))},
        loss={"reward": log(7 / 6) + log(4 / 3) + log(3 / 2) + 0.1 * (log(3) ** 2 + log(2) ** 2)},
        metrics={"pairs/margin": log(6), "costs/sign_accuracy": 1.0},
        judged={"value": (-log(2), log(3))},
    ),
    # c_w = 0, which is called unsafe once and safe once and is right neither time; c_r = log 2, unsafe
    # -log sigmoid of log 2 twice and of 0
    WorkedExample(
        settings={"decay": 0.0},
        batch={"group": (0, 0, 1, 1), "side": (1, -1, 1, -1), "channels": {"unsafe": (1.0, 1.0, 0.0, 1.0)}},
        outputs={"values": ((0.0, 0.0), (0.0, log(2)), (0.0, 0.0), (0.0, log(2)))},
        loss={"reward": 2 * log(3 / 2) + log(2)},
        metrics={"costs/sign_accuracy": 0.5},
    ),
)
