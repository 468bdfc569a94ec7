"""RLOO by hand: completions are each other's baseline; LOOP's tokens, and log-probs without a ratio."""

from math import log, sqrt

from alignkit.types.example import WorkedExample

A = 1 - log(2) / 2
B = 2 / (sqrt(8 / 3) + 1e-4)

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
    # LOOP: A = 2 -2 0 0 over its deviation in the batch, of which those above 1/2 stay
    # ratio 3 counts as 2;  ratio 1, drawn with 1/8 instead of 1/2, weighs 4 and counts as 2;  ratio 2/5 of A < 0 as 1/2
    # entropies 1/2 1/4 and 1, half of them
    WorkedExample(
        settings={
            "normalise": True,
            "min_advantage": 0.5,
            "loss": {"unit": "token", "clip": 1.0, "clip_range": "symmetric", "entropy_weight": 0.5},
        },
        batch={
            "group": (0, 0, 1, 1),
            "reward": (2.0, 0.0, 1.0, 1.0),
            "sampler_logprobs": ((log(1 / 8), log(1 / 8)), (log(1 / 2),), (log(1 / 2),), (log(1 / 2),)),
            "old_logprobs": ((log(1 / 8), log(1 / 2)), (log(1 / 2),), (log(1 / 2),), (log(1 / 2),)),
        },
        outputs={
            "logprobs": ((log(3 / 8), log(1 / 2)), (log(1 / 5),), (log(1 / 2),), (log(1 / 2),)),
            "entropy": ((0.5, 0.25), (1.0,), (1.0,), (1.0,)),
        },
        advantages=(B, -B),
        loss={"policy": ((-2 * B - 2 * B - 0.75 / 2) / 2 + (B / 2 - 1 / 2)) / 2},
    ),
    # -A sum l: 3 log 2, drawn with 1/12 instead of 1/8, weighs 3/2;  -log 2;  entropies 3/4 and 1, half of them
    # the other prompt's completions have A = 0 and count
    WorkedExample(
        settings={"loss": {"surrogate": "reinforce", "entropy_weight": 0.5}},
        batch={
            "group": (0, 0, 1, 1),
            "reward": (1.0, 0.0, 1.0, 1.0),
            "sampler_logprobs": ((log(1 / 2), log(1 / 6)), (log(1 / 2),), (log(1 / 2),), (log(1 / 2),)),
        },
        outputs={
            "logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),), (log(1 / 2),), (log(1 / 2),)),
            "entropy": ((0.5, 0.25), (1.0,), (0.0,), (0.0,)),
        },
        advantages=(1.0, -1.0, 0.0, 0.0),
        loss={"policy": (1.5 * 3 * log(2) - 0.75 / 2 - log(2) - 1 / 2) / 4},
        gradient={"logprobs": ((-1.5 / 4, -1.5 / 4), (1 / 4,), (0.0,), (0.0,))},
    ),
)
