"""REBEL by hand: three completions of one prompt, three pairs."""

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
)
