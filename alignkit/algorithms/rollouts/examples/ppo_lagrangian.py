"""PPO-Lagrangian by hand: a completion that is paid 1 and costs 1, one that does neither, and a multiplier of 3."""

from math import log

from alignkit.types.example import WorkedExample

REWARD = 1 - log(2) / 2 - 1 / 2  # advantages of the first completion
COST = 1 + log(2) / 2 - 1 / 4

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
)
