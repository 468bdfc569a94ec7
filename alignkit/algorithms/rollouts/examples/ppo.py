"""PPO by hand: a completion of two tokens, paid 1, and one of one token, paid 0."""

from math import log

from alignkit.types.example import WorkedExample

FIRST = 1 / 8 - log(2) / 2  # the first token's advantage

EXAMPLES = (
    # r = -log(2) / 2 and 1;  0.   V before = 1/4 and 1/2;  1/4.   A_2 = 1 - 1/2,  A_1 = r_1 + 1/2 1/2 - 1/4 + 1/4 A_2
    # R = A + V.  Ratios 1 and 3/2, clipped to 1.2;  1/2 of A < 0, clipped to 0.8
    # the critic now says 1/4 and 1, which counts as 0.7;  1/4
    WorkedExample(
        settings={"discount": 0.5, "gae_lambda": 0.5, "kl_weight": 0.5, "whiten_advantages": False},
        batch={
            "reward": (1.0, 0.0),
            "old_logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 2),)),
            "ref_logprobs": ((log(1 / 4), log(1 / 2)), (log(1 / 2),)),
            "values": ((0.25, 0.5, 0.0), (0.25, 0.0)),
        },
        outputs={
            "logprobs": ((log(1 / 2), log(3 / 4)), (log(1 / 4),)),
            "values": ((0.25, 1.0, 0.0), (0.25, 0.0)),
        },
        advantages=((FIRST, 1 / 2), -1 / 4),
        loss={
            "policy": (-FIRST - 1.2 / 2 + 0.8 / 4) / 3,
            "critic": 0.1 * (FIRST**2 + (0.7 - 1) ** 2 + (1 / 4) ** 2) / 2 / 3,
        },
    ),
)
