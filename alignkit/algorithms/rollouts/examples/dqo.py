"""DQO by hand: one completion of two tokens, paid 1 at its end; one that was cut, with traces."""

from math import log

from alignkit.types.example import WorkedExample

K = log(2) / 2

EXAMPLES = (
    # V = 1/4, then 1/2.   Q - V = 0 + 1/2 - 1/4 and 1 - 1/2;  log-ratios log 2 and -log 2, halved
    # soft rewards -log(2) / 2 and 1, so G = 1 - log(2) / 2 and 1
    WorkedExample(
        settings={"beta": 0.5},
        batch={
            "reward": (1.0,),
            "old_logprobs": ((log(1 / 2), log(1 / 2)),),
            "ref_logprobs": ((log(1 / 4), log(1 / 2)),),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 4)),), "values": ((0.25, 0.5, 0.0),)},
        advantages=((0.25, 0.5),),
        loss={
            "policy": ((0.5 * log(2) - 0.25) ** 2 + (-0.5 * log(2) - 0.5) ** 2) / 2,
            "critic": ((0.25 - (1 - 0.5 * log(2))) ** 2 / 2 + (0.5 - 1) ** 2 / 2) / 2,
        },
    ),
    # cut, which costs 1/4; V = 1/2, then 1/4, what is after the end counts nothing.  log-ratios 0 and log 2, halved: K
    # soft rewards 0 and 3/4 - K, so deltas -1/4 and 1/2 - K
    # Q - V = -1/4 + 1/2 (1/2 - K) and 1/2 - K, K more at the second token.   G - V = -1/4 + 1/4 (1/2 - K) and 1/2 - K
    # the critic now says 1, and 1/4.   the second, drawn with 1/8 instead of 1/2, weighs 4 and counts as 2
    WorkedExample(
        settings={
            "beta": 0.5,
            "policy_lambda": 0.5,
            "value_lambda": 0.25,
            "value_weight": 2.0,
            "missing_eos_penalty": 0.25,
        },
        batch={
            "reward": (1.0,),
            "truncated": (True,),
            "sampler_logprobs": ((log(1 / 2), log(1 / 8)),),
            "old_logprobs": ((log(1 / 2), log(1 / 2)),),
            "ref_logprobs": ((log(1 / 2), log(1 / 4)),),
            "values": ((0.5, 0.25, 1.0),),
        },
        outputs={"logprobs": ((log(1 / 2), log(1 / 2)),), "values": ((1.0, 0.25, 1.0),)},
        advantages=((-K / 2, 0.5),),
        loss={
            "policy": ((K / 2) ** 2 + 2 * (K - 0.5) ** 2) / 2,
            "critic": 2 * ((5 / 8 + K / 4) ** 2 / 2 + (1 / 2 - K) ** 2 / 2) / 2,
        },
        metrics={
            "critic/value": 5 / 8,
            "critic/return": (3 / 8 - K / 4 + 3 / 4 - K) / 2,
            "critic/error": ((5 / 8 + K / 4) ** 2 + (1 / 2 - K) ** 2) / 2,
        },
    ),
)
