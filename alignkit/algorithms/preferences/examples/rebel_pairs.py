"""Offline REBEL on one pair by hand: how much better the chosen answer is, regressed on."""

from math import log

from alignkit.types.example import WorkedExample

PAIR = {"side": (1, -1), "reward": (1.0, 0.5), "ref_logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),))}
SAID = {"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),))}

EXAMPLES = (
    # h = log 2 - (-log 2), eta (r_w - r_l) = 2 (1 - 1/2), and half of -mean l_w = log 2
    WorkedExample(
        settings={"eta": 2.0, "nll_weight": 0.5},
        batch=PAIR,
        outputs=SAID,
        loss={"policy": (2 * log(2) - 1) ** 2 + 0.5 * log(2)},
        metrics={"loss/nll": log(2), "pairs/margin": log(2)},
        judged={"value": (log(2) / 2, -log(2) / 2)},
    ),
    # (h / eta - (r_w - r_l))^2
    WorkedExample(
        settings={"eta": 2.0, "convention": "paper"},
        batch=PAIR,
        outputs=SAID,
        loss={"policy": (log(2) - 0.5) ** 2},
    ),
)
