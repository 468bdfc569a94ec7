"""SimPO by hand: one pair, by the mean log-prob of its tokens."""

from math import e, log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # means log 1/2 and log 1/4, beta 2, gamma = 2 0.5 = 1:  -log sigmoid(2 log 2 - 1) = log(1 + e/4)
    WorkedExample(
        batch={"side": (1, -1)},
        outputs={"logprobs": ((log(2 / 3), log(3 / 8)), (log(1 / 4),))},
        loss={"policy": log(1 + e / 4)},
        metrics={"loss/nll": log(2), "pairs/margin": 2 * log(2)},
        judged={"value": (-2 * log(2), -4 * log(2))},
    ),
    # the same logits, a quarter of the labels taken to be flipped, and half of -mean l_w = log 2
    WorkedExample(
        settings={"label_smoothing": 0.25, "nll_weight": 0.5},
        batch={"side": (1, -1)},
        outputs={"logprobs": ((log(2 / 3), log(3 / 8)), (log(1 / 4),))},
        loss={"policy": 0.75 * log(1 + e / 4) + 0.25 * log(1 + 4 / e) + 0.5 * log(2)},
    ),
)
