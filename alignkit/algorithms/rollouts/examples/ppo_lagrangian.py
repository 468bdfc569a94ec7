"""PPO-Lagrangian by hand: a completion that is paid 1 and costs 1, one that does neither, and a multiplier of 3."""

from math import log

from alignkit.types.example import WorkedExample

REWARD = 1 - log(2) / 2 - 1 / 2  # advantages of the first completion
COST = 1 + log(2) / 2 - 1 / 4

R = (5 / 4) ** 2 + 3  # squared errors of the second example, of the reward and of the cost
C = (1 / 8) ** 2 + 3

EXAMPLES = (
    # V = 1/2 of the reward, 1/4 of the cost;  A = (A_r - 3 A_c) / 4, so that the KL, log 2, weighs -1/2 again
    # ratios 1 and 3/2, clipped to 1.2
    WorkedExample(
        settings={"costs": ("unsafe",), "kl_weight": 0.5, "whiten_advantages": False, "clip_value": None},
        batch={
            "reward": (1.0, 0.0),
            "channels": {"cost/unsafe": (1.0, 0.0), "multiplier/unsafe": (3.0, 3.0)},
            "old_logprobs": ((log(1 / 2),), (log(1 / 2),)),
            "ref_logprobs": ((log(1 / 4),), (log(1 / 2),)),
        },
        outputs={
            "logprobs": ((log(1 / 2),), (log(3 / 4),)),
            "values": (((0.5, 0.25), (0.0, 0.0)), ((0.5, 0.25), (0.0, 0.0))),
        },
        advantages=(-1.75 / 4 - log(2) / 2, 0.25 / 4),
        loss={
            "policy": (1.75 / 4 + log(2) / 2 - 1.2 * 0.25 / 4) / 2,
            "critic": 0.1 * (REWARD**2 + COST**2 + (1 / 2) ** 2 + (1 / 4) ** 2) / 2 / 2,
        },
    ),
    # rewards 4 4 0 0 over their deviation 2, their mean 2 kept: 3 3 1 1.   V = 1 and 1/2 before;  the first was cut
    # where V = 1/2 and 1/4.   A_r = 9/4 2 0 0,  A_c = 5/8 -1/2 -1/2 -1/2, half of their difference
    # the critic now says 2 and 1;  returns 13/4 3 1 1 and 9/8 0 0 0
    WorkedExample(
        settings={
            "costs": ("unsafe",),
            "discount": 0.5,
            "whiten_rewards": True,
            "whiten_advantages": False,
            "bootstrap_truncated": True,
            "clip_value": None,
        },
        batch={
            "reward": (4.0, 4.0, 0.0, 0.0),
            "truncated": (True, False, False, False),
            "channels": {"cost/unsafe": (1.0, 0.0, 0.0, 0.0), "multiplier/unsafe": (1.0,) * 4},
            "old_logprobs": ((log(1 / 2),),) * 4,
            "values": (((1.0, 0.5), (0.5, 0.25)), *(((1.0, 0.5), (9.0, 9.0)),) * 3),
        },
        outputs={"logprobs": ((log(1 / 2),),) * 4, "values": (((2.0, 1.0), (9.0, 9.0)),) * 4},
        advantages=(13 / 16, 5 / 4, 1 / 4, 1 / 4),
        loss={"policy": -(13 / 16 + 5 / 4 + 1 / 2) / 4, "critic": 0.1 * (R + C) / 2 / 4},
        metrics={
            "critic/value": 2.0,
            "critic/return": (13 / 4 + 5) / 4,
            "critic/error": R / 4,
            "critic/cost": 1.0,
            "critic/cost_error": C / 4,
        },
    ),
    # one completion: A_r = 1/2, A_c = 3/4, (A_r - 3 A_c) / 4
    WorkedExample(
        settings={"costs": ("unsafe",), "whiten_advantages": False},
        batch={"reward": (1.0,), "channels": {"cost/unsafe": (1.0,), "multiplier/unsafe": (3.0,)}},
        outputs={"logprobs": ((log(1 / 2),),), "values": (((0.5, 0.25), (0.0, 0.0)),)},
        advantages=(-1.75 / 4,),
        loss={"policy": 1.75 / 4, "critic": 0.1 * (1 / 2**2 + (3 / 4) ** 2) / 2},
        gradient={"logprobs": ((1.75 / 4,),)},
    ),
    # without costs it is PPO
    WorkedExample(
        settings={"whiten_advantages": False},
        batch={"reward": (1.0,)},
        outputs={"logprobs": ((log(1 / 2),),), "values": ((0.5, 0.0),)},
        advantages=(0.5,),
        loss={"policy": -0.5, "critic": 0.1 * 0.5**2 / 2},
        gradient={"logprobs": ((-0.5,),)},
    ),
)
