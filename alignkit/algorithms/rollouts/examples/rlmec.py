"""RLMEC by hand: a right completion, a wrong one and its rewrite, which changes the second token."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # p = 3/4 and 1/4.  right: R = 1/4 and 0;  wrong: 0 and -0.1;  mean of the two: (1/4 log 2 - 0.1 2 log 2) / 2
    # w = 1/2 and 1/2 of the right one, 1/2 and 1 of the rewrite: (1/2 + 1/2 + 1/2 + 2) log 2 / 4
    WorkedExample(
        batch={
            "tokens": ((11, 12), (11, 13), (11, 14)),
            "group": (0, 1, 1),
            "side": (1, -1, 0),
            "ref_logprobs": ((log(3 / 4), log(1 / 4)), (log(3 / 4), log(1 / 4)), (log(3 / 4), log(1 / 2))),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 2), log(1 / 4)), (log(1 / 2), log(1 / 4)))},
        loss={"policy": (1 / 4 - 0.2) * log(2) / 2 + 3.5 * log(2) / 4},
    ),
    # p = 7/10 and 1/4 of the right one: R = 1/5 and 0;  3/4 in the wrong one: 0;  mean of the one: 1/5 log 2
    # w = 1/4 and 1/4 of the right one, 1/4 and 1 of the rewrite: half of (1/4 + 1/4 + 1/4 + 2) log 2 / 4
    WorkedExample(
        settings={"penalty": 0.2, "nll_weight": 0.5, "kept_weight": 0.25},
        batch={
            "tokens": ((20, 21), (11, 13), (11, 14)),
            "group": (0, 1, 1),
            "side": (1, -1, 0),
            "ref_logprobs": ((log(7 / 10), log(1 / 4)), (log(3 / 4), log(3 / 4)), (log(3 / 4), log(3 / 4))),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 2), log(1 / 2)), (log(1 / 2), log(1 / 4)))},
        loss={"policy": log(2) / 5 + 0.5 * 2.75 * log(2) / 4},
        metrics={"loss/nll": 5 / 4 * log(2), "edits/rewarded_frac": 0.5, "edits/penalised_frac": 0.0},
    ),
    # R = 0 in both wrong ones: their rewrites alone are learnt, -l = 1 and 2 log 2
    WorkedExample(
        batch={
            "tokens": ((11,), (12,), (13,), (14,)),
            "group": (0, 0, 1, 1),
            "side": (-1, 0, -1, 0),
            "ref_logprobs": ((log(3 / 4),),) * 4,
        },
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 2),), (log(1 / 2),), (log(1 / 4),))},
        loss={"policy": 1.5 * log(2)},
    ),
)
