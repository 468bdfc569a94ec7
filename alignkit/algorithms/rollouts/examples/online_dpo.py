"""Online DPO by hand: of three completions the best and the worst are a pair."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # chosen: the second, D = log 2;  rejected: the first, D = -log 2:  -log sigmoid(2 log 2) = log(5/4)
    WorkedExample(
        settings={"beta": 1.0},
        batch={
            "reward": (0.0, 1.0, 0.5),
            "ref_logprobs": ((log(1 / 2),), (log(1 / 2), log(1 / 4)), (log(1 / 2),)),
        },
        outputs={"logprobs": ((log(1 / 4),), (log(1 / 2), log(1 / 2)), (log(1 / 8),))},
        loss={"policy": log(5 / 4)},
    ),
    # the first was cut: 1/2 0.8 0 0.6, so the second is chosen, D = log 2, the third rejected, D = -log 2
    # the other prompt's rewards are equal
    WorkedExample(
        settings={"beta": 1.0, "missing_eos_penalty": 0.5},
        batch={
            "group": (0, 0, 0, 0, 1, 1),
            "reward": (1.0, 0.8, 0.0, 0.6, 1.0, 1.0),
            "truncated": (True, False, False, False, False, False),
            "ref_logprobs": ((log(1 / 2),), (log(1 / 4),), *((log(1 / 2),),) * 3, (log(1 / 8),)),
        },
        outputs={"logprobs": ((log(1 / 8),), (log(1 / 2),), (log(1 / 4),), *((log(1 / 2),),) * 3)},
        loss={"policy": log(5 / 4)},
    ),
)
