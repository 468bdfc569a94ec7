"""PPO by hand: GAE and clipping, whitening, completions that were cut."""

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
    # rewards 4 0 over their deviation 2, their mean 2 kept: 3 1.   V = 1 2, A = 2 -1, whitened 1 -1.   ratios 1.1 and 1
    # entropies 1 and 1/2, and the critic is where it was
    WorkedExample(
        settings={"whiten_rewards": True, "entropy_weight": 0.5},
        batch={"reward": (4.0, 0.0), "old_logprobs": ((log(1 / 2),), (log(1 / 4),))},
        outputs={
            "logprobs": ((log(1.1 / 2),), (log(1 / 4),)),
            "values": ((1.0, 0.0), (2.0, 0.0)),
            "entropy": ((1.0,), (0.5,)),
        },
        advantages=(1.0, -1.0),
        loss={"policy": (-1.1 + 1 - 0.5 * 1.5) / 2, "critic": 0.1 * (2**2 + 1**2) / 2 / 2},
    ),
    # the first is cut where V = 1/2: A = 1 + 1/2 1/2 - 1/4 = 1;  the second, where V = 1, has ended: A = 0 - 1/2
    # ratio 1, drawn with 1/5 instead of 1/4, weighs 5/4;  ratio 4 of A < 0 counts as 3
    WorkedExample(
        settings={"discount": 0.5, "bootstrap_truncated": True, "whiten_advantages": False, "clip_dual": 3.0},
        batch={
            "reward": (1.0, 0.0),
            "truncated": (True, False),
            "sampler_logprobs": ((log(1 / 5),), (log(1 / 8),)),
            "old_logprobs": ((log(1 / 4),), (log(1 / 8),)),
        },
        outputs={"logprobs": ((log(1 / 4),), (log(1 / 2),)), "values": ((0.25, 0.5), (0.5, 1.0))},
        advantages=(1.0, -0.5),
        loss={"policy": (-1.25 + 3 / 2) / 2, "critic": 0.1 * (1**2 + 0.5**2) / 2 / 2},
        metrics={"critic/value": 0.75 / 2, "critic/return": 1.25 / 2, "critic/error": 1.25 / 2},
    ),
    # the first was cut and pays 1/4: A = 1 - 1/4 - 1/2;  the second: A = 1 - 0
    WorkedExample(
        settings={"missing_eos_penalty": 0.25, "whiten_advantages": False, "clip_value": None, "value_weight": 2.0},
        batch={"reward": (1.0, 1.0), "truncated": (True, False), "values": ((0.5, 0.5), (0.0, 0.0))},
        outputs={"logprobs": ((log(1 / 4),), (log(1 / 2),)), "values": ((1.75, 0.5), (1.0, 1.0))},
        advantages=(0.25, 1.0),
        loss={"policy": (-0.25 - 1) / 2, "critic": 2 * (1**2 + 0**2) / 2 / 2},
        gradient={"logprobs": ((-0.25 / 2,), (-1 / 2,))},
    ),
)
