"""REBEL by hand: three completions of one prompt, three pairs; win rates."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # D = log 2, -log 2, 0;  r = 2 - log(2) / 2, 0, 0;  D - 2 r = 2 log 2 - 4, -log 2, 0
    WorkedExample(
        settings={"eta": 2.0, "kl_weight": 0.5},
        batch={
            "reward": (2.0, 0.0, 0.0),
            "old_logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),), (log(1 / 2),)),
            "ref_logprobs": ((log(1 / 2), log(1 / 8)), (log(1 / 2),), (log(1 / 2),)),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 4),), (log(1 / 2),))},
        loss={"policy": ((3 * log(2) - 4) ** 2 + (2 * log(2) - 4) ** 2 + log(2) ** 2) / 3},
    ),
    # P = 3/4 and 1/4, eta (P_1 - P_2) = 1;  D = 0 at the first update: 1 / eta^2.  The third is no pair
    # by D_1 and D_2: 2 (0 - 1) / eta^2 and its opposite, each of their tokens
    WorkedExample(
        settings={"eta": 2.0, "convention": "paper", "target": "win_rate"},
        batch={"group": (0, 0, 1), "reward": (log(3), 0.0, 5.0)},
        outputs={"logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),), (log(1 / 2),))},
        loss={"policy": 1 / 4},
        gradient={"logprobs": ((-1 / 2, -1 / 2), (1 / 2,), (0.0,))},
    ),
    # P = 3/4 and 1/4, less half of log 2 and of 0;  D = log 2 and 0
    WorkedExample(
        settings={"target": "win_rate", "kl_weight": 0.5},
        batch={
            "reward": (log(3), 0.0),
            "sampler_logprobs": ((log(1 / 3),), (log(1 / 2),)),
            "old_logprobs": ((log(1 / 2),), (log(1 / 2),)),
            "ref_logprobs": ((log(1 / 4),), (log(1 / 2),)),
        },
        outputs={"logprobs": ((0.0,), (log(1 / 2),))},
        loss={"policy": (log(2) - (1 / 2 - log(2) / 2)) ** 2},
        metrics={"policy/kl_sampler": log(2 / 3) / 2, "policy/kl_reference": log(4) / 2},
    ),
)
