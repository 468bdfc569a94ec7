"""A model that reads both answers, by hand: one pair in both orders."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # a sequence's own answer is read last, so side -1 says z(w, l) = log 3 and side 1 says z(l, w) = -log 2
    WorkedExample(
        batch={"side": (1, -1)},
        outputs={"values": ((0.0, -log(2)), (0.0, log(3)))},
        loss={"reward": (log(4 / 3) + log(3 / 2)) / 2},
        metrics={"pairs/margin": log(6)},
        judged={"value": (log(6) / 2, -log(6) / 2)},
    ),
)
