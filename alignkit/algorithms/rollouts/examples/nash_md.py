"""Nash-MD by hand: three completions, of which the second has left the reference."""

from math import log

from alignkit.types.example import WorkedExample

EXAMPLES = (
    # K = 0 2 0 log 2, so the opponents weigh (reference / policy)^{1/2} = 1 1/2 1
    # P = 3/4;  (1/4 + 1/2) / 2 = 3/8;  (1/4 + 1/2 1/2) / (3/2) = 1/3.   K less the others' mean = -1 2 -1 log 2
    WorkedExample(
        settings={"mixture": 0.5, "kl_weight": 0.1},
        batch={"reward": (log(3), 0.0, 0.0), "ref_logprobs": ((log(1 / 2),), (log(1 / 8),), (log(1 / 2),))},
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 2),), (log(1 / 2),))},
        advantages=(1 / 4 + 0.1 * log(2), -1 / 8 - 0.2 * log(2), -1 / 6 + 0.1 * log(2)),
        loss={"policy": -(1 / 4 - 1 / 8 - 1 / 6) / 3},
    ),
    # the policy is the reference, so opponents weigh alike: P = 3/4 and 1/4;  ratios 1.1 and 1
    WorkedExample(
        batch={
            "reward": (log(3), 0.0),
            "old_logprobs": ((log(1 / 2),), (log(1 / 2),)),
            "ref_logprobs": ((log(1 / 2),), (log(1 / 2),)),
        },
        outputs={"logprobs": ((log(1.1 / 2),), (log(1 / 2),))},
        advantages=(1 / 4, -1 / 4),
        loss={"policy": (-1.1 / 4 + 1 / 4) / 2},
    ),
)
