"""REFUEL by hand: a turn of an episode of one turn, and one of an episode of three."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # D_0 - D_1 = log 2, eta (R_0 - R_1) = 2;  D_2 - D_3 = -log 2, R_2 = R_3;  weights 1 and 3
    WorkedExample(
        settings={"eta": 2.0},
        batch={
            "group": (0, 0, 1, 1),
            "reward": (1.0, 0.0, 1.0, 1.0),
            "channels": {"turns": (1.0, 1.0, 3.0, 3.0)},
            "old_logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),), (log(1 / 2),), (log(1 / 4),)),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 2),), (log(1 / 4),), (log(1 / 4),))},
        loss={"policy": ((log(2) - 2) ** 2 + 3 * log(2) ** 2) / 4},
    ),
    # eta (R_0 - R_1) = 2, D = 0 at the first update: 2^2 / eta^2, by D_0 2 (-2) / eta^2.   The third is no pair
    WorkedExample(
        settings={"eta": 2.0, "convention": "paper"},
        batch={
            "group": (0, 0, 1),
            "reward": (1.0, 0.0, 5.0),
            "sampler_logprobs": ((log(1 / 4), log(1 / 4)), (log(1 / 2),), (log(1 / 2),)),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),), (log(1 / 2),))},
        loss={"policy": 1.0},
        gradient={"logprobs": ((-1.0, -1.0), (1.0,), (0.0,))},
        metrics={"policy/kl_sampler": -log(2) / 4},
    ),
)
