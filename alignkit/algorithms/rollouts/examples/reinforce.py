"""REINFORCE by hand: returns less the mean of the batch; whitened ratios; importance weights of log-probs."""

from math import log, sqrt

from alignkit.types.example import WorkedExample

B = (1 - log(2) / 2) / 2  # mean over the batch of what a completion is paid
S = sqrt(2.24)

EXAMPLES = (
    # r = -log(2) / 2 and 1;  0.   G = -log(2) / 2 + 1/2 and 1;  0.   -l = 1 and 2 log 2;  log 2
    WorkedExample(
        settings={"discount": 0.5, "kl_weight": 0.5},
        batch={"group": (0, 1), "reward": (1.0, 0.0), "ref_logprobs": ((log(1 / 4), log(1 / 4)), (log(1 / 2),))},
        outputs={"logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),))},
        advantages=((1 / 2 - log(2) / 2 - B, 1 - B), -B),
        loss={"policy": ((1 / 2 - log(2) / 2 - B) * log(2) + (1 - B) * 2 * log(2) - B * log(2)) / 2},
    ),
    # A = 2 2 -2 0 0 less the mean reward of their groups, less their mean 2/5: 8/5 8/5 -12/5 -2/5 -2/5
    # squares 2.56 2.56 5.76 0.16 0.16, mean 2.24.   ratios 3/2, which counts as 1.2, 1;  1/2 of A < 0 as 0.8;  1;  1.1
    WorkedExample(
        settings={
            "baseline": "group",
            "whiten": True,
            "surrogate": "clip",
            "aggregate": "token_mean",
            "entropy_weight": 0.1,
        },
        batch={
            "group": (0, 0, 1, 1),
            "reward": (4.0, 0.0, 1.0, 1.0),
            "old_logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 2),), (log(1 / 2),), (log(1 / 2),)),
        },
        outputs={
            "logprobs": ((log(3 / 4), log(1 / 2)), (log(1 / 4),), (log(1 / 2),), (log(1.1 / 2),)),
            "entropy": ((0.5, 0.5), (1.0,), (1.0,), (2.0,)),
        },
        advantages=(1.6 / S, -2.4 / S, -0.4 / S, -0.4 / S),
        loss={"policy": (-1.2 * 1.6 - 1.6 + 0.8 * 2.4 + 0.4 + 1.1 * 0.4) / S / 5 - 0.1},
    ),
    # -l = 1 and 2 log 2;  the second, drawn with 1/16 instead of 1/4, weighs 4 and counts as 2
    WorkedExample(
        settings={"baseline": "none", "aggregate": "sequence_mean_token_mean"},
        batch={"reward": (1.0, 0.0), "sampler_logprobs": ((log(1 / 2), log(1 / 16)), (log(1 / 2),))},
        outputs={"logprobs": ((log(1 / 2), log(1 / 4)), (log(1 / 2),))},
        advantages=(1.0, 0.0),
        loss={"policy": (log(2) + 2 * 2 * log(2)) / 2 / 2},
        gradient={"logprobs": ((-1 / 4, -2 / 4), (0.0,))},
    ),
)
