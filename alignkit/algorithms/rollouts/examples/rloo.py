"""RLOO by hand: two completions, paid 1 and 0; each is the other's baseline."""

from math import log

from alignkit.types.example import WorkedExample

A = 1 - log(2) / 2

EXAMPLES = (
    # R = 1 - 1/2 log 2 and 0.   s = 1/2 1/2 : 1/2 1/4 = 2, clipped to 1.2;  s = 1.1, within the range
    WorkedExample(
        settings={"kl_weight": 0.5},
        batch={
            "reward": (1.0, 0.0),
            "old_logprobs": ((log(1 / 2), log(1 / 4)), (log(0.5),)),
            "ref_logprobs": ((log(1 / 2), log(1 / 8)), (log(0.5),)),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)), (log(0.55),))},
        advantages=(A, -A),
        loss={"policy": (-1.2 * A + 1.1 * A) / 2},
    ),
)
