"""Turn-PPO by hand: an episode of two turns, the first of two tokens, paid 3 at its end; one that was cut."""

from math import log, sqrt

from alignkit.types.example import WorkedExample

# of the last example: mean -7/12, mean square (9/16 + 9 + 4) / 3
FINE = (-3 / 4, -3.0, 2.0)
DEVIATION = sqrt((9 / 16 + 9 + 4) / 3 - (7 / 12) ** 2 + 1e-8)
LOW, LEAST, MOST = ((each + 7 / 12) / DEVIATION for each in FINE)

EXAMPLES = (
    # V = 2 before the first turn, 1 before the second; what it says within the first (9) is never asked
    # deltas 0 + 1/2 1 - 2 = -3/2 and 3 - 1 = 2;  A = -3/2 + 1/4 2 = -1 and 2;  R = 1 and 3;  A whitened: -1 and 1
    # ratios 1 2 of the first turn's tokens, 2 (clipped to 1.2) of the second's;  V now 3/2 and 2, old 2 and 1
    WorkedExample(
        settings={"discount": 0.5, "gae_lambda": 0.5, "clip_value": None, "value_weight": 1.0},
        batch={
            "action_mask": ((True, True, False, True),),
            "reward": (3.0,),
            "old_logprobs": ((log(1 / 4), log(1 / 4), 0.0, log(1 / 4)),),
            "values": ((2.0, 9.0, 9.0, 1.0, 9.0),),
        },
        outputs={
            "logprobs": ((log(1 / 4), log(1 / 2), 0.0, log(1 / 2)),),
            "values": ((3 / 2, 8.0, 8.0, 2.0, 8.0),),
        },
        advantages=((-1.0, -1.0, 1.0),),
        loss={"policy": (1 + 2 - 1.2) / 3, "critic": ((3 / 2 - 1) ** 2 / 2 + (2 - 3) ** 2 / 2) / 2},
        metrics={"critic/value": 7 / 4, "critic/return": 2.0, "critic/error": (1 / 4 + 1) / 2},
    ),
    # cut after one turn, and so continued with V = 4 after it: A = 1 + 1/2 4 - 1 = 2; beside an episode with A = 0 - 2
    # values may move by 1/2 alone: 1 -> 2 counts as 3/2, whose error 3/2 is the larger
    WorkedExample(
        settings={"discount": 0.5, "clip_value": 0.5, "value_weight": 2.0, "bootstrap_truncated": True},
        batch={
            "group": (0, 1),
            "action_mask": ((True, False), (True,)),
            "reward": (1.0, 0.0),
            "truncated": (True, False),
            "old_logprobs": ((log(1 / 2), 0.0), (log(1 / 2),)),
            "values": ((1.0, 9.0, 4.0), (2.0, 9.0)),
        },
        outputs={"logprobs": ((log(1 / 2), 0.0), (log(1 / 4),)), "values": ((2.0, 9.0, 9.0), (2.0, 9.0))},
        advantages=(1.0, -1.0),
        loss={"policy": (-1 + 0.8) / 2, "critic": 2 * ((3 / 2) ** 2 / 2 + 2**2 / 2) / 2},
    ),
    # two discounts: w = 1/2 and 1; V = 2 and 4 before the tokens of the first turn, 1 before the second turn
    # A_2 = 3 - 1 = 2;  A_1 = 1/2 (0 + 1/2 1) - 2 + 1/2 1/2 1/2 2 = -3/2, so the first turn earned (2 - 3/2) / w = 1
    # its tokens: 1 - 4 = -3, and 1/2 4 - 2 + 1/2 1/2 (-3) = -3/4;  targets A + V: 5/4, 1 and 3, before each token
    WorkedExample(
        settings={
            "discount": 0.5,
            "gae_lambda": 0.5,
            "token_discount": 0.5,
            "token_lambda": 0.5,
            "clip_value": None,
            "value_weight": 1.0,
        },
        batch={
            "action_mask": ((True, True, False, True),),
            "reward": (3.0,),
            "old_logprobs": ((log(1 / 4), log(1 / 4), 0.0, log(1 / 4)),),
            "values": ((2.0, 4.0, 9.0, 1.0, 9.0),),
        },
        outputs={
            "logprobs": ((log(1 / 4), log(1 / 2), 0.0, log(1 / 2)),),
            "values": ((3 / 2, 2.0, 8.0, 2.0, 8.0),),
        },
        advantages=((LOW, LEAST, MOST),),
        loss={
            "policy": (-LOW - 2 * LEAST - 1.2 * MOST) / 3,
            "critic": ((3 / 2 - 5 / 4) ** 2 / 2 + (2 - 1) ** 2 / 2 + (2 - 3) ** 2 / 2) / 3,
        },
    ),
)
