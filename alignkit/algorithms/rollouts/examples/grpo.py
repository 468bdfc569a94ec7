"""GRPO by hand: as in its paper (a mean over completions, KL in the loss), and its variants."""

from math import log, sqrt

from alignkit.types.example import WorkedExample

A = 0.5 / (sqrt(1 / 2) + 1e-4)  # rewards 1/2 from their mean, squares 1/4 + 1/4 over n - 1 = 1
B = 2 / (2 + 1e-4)
C = (1 - log(2) / 2) / 2

EXAMPLES = (
    # ratio 3/2 clips to 1.2;  ratio 1, drawn with 1/3 instead of 1/2, weighs 3/2;  ratio 1/2 of A < 0 clips to 0.8
    # k3 is 0 but for the last token, d = log(1/4 : 1/2): e^{-d} - 1 + d = 1 - log 2
    WorkedExample(
        settings={"loss": {"aggregate": "sequence_mean_token_mean", "kl": "loss", "kl_weight": 0.5}},
        batch={
            "reward": (1.0, 0.0),
            "sampler_logprobs": ((log(1 / 2), log(1 / 3)), (log(1 / 2),)),
            "old_logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 2),)),
            "ref_logprobs": ((log(3 / 4), log(1 / 2)), (log(1 / 2),)),
        },
        outputs={"logprobs": ((log(3 / 4), log(1 / 2)), (log(1 / 4),))},
        advantages=(A, -A),
        loss={"policy": ((-1.2 * A - 1.5 * A) / 2 + (0.8 * A + 0.5 * (1 - log(2)))) / 2},
        metrics={
            "policy/kl_sampler": log(2 / 3) / 3,
            "policy/kl_reference": -log(2) / 3,
            "policy/clip_frac": 2 / 3,
            "policy/ratio_max": 1.5,
        },
    ),
    # over the whole batch: rewards 4 0 0 0, squares from their mean 9 1 1 1 over n - 1 = 3
    # drawn with 1/2, 1/8 and 1 instead of 1/2, 1/2 and 1/4: weights 1, 4 and 1/4, only 1 is in [1/2, 2];  3/2
    # entropies add up to 3, all are divided by 4 completions and by the constant 4
    WorkedExample(
        settings={
            "scale": "batch",
            "loss": {
                "correction": "mask",
                "entropy_weight": 0.1,
                "aggregate": "sequence_mean_constant",
                "aggregate_constant": 4.0,
            },
        },
        batch={
            "group": (0, 0, 1, 1),
            "reward": (4.0, 0.0, 0.0, 0.0),
            "sampler_logprobs": ((log(1 / 2), log(1 / 8), 0.0), (log(1 / 6),), (log(1 / 2),), (log(1 / 2),)),
        },
        outputs={
            "logprobs": ((log(1 / 2), log(1 / 2), log(1 / 4)), (log(1 / 4),), (log(1 / 2),), (log(1 / 2),)),
            "entropy": ((0.5, 0.25, 0.25), (0.5,), (1.0,), (0.5,)),
        },
        advantages=(B, -B, 0.0, 0.0),
        loss={"policy": (-B + 1.5 * B - 0.1 * 3) / 16},
        gradient={"logprobs": ((-B / 16, 0.0, 0.0), (1.5 * B / 16,), (0.0,), (0.0,))},
        metrics={"policy/entropy": 0.5, "policy/clip_frac": 0.0, "policy/ratio_max": 1.0},
    ),
    # GSPO: ratios 1.44 and 1, their geometric mean is 1.2;  1/4 and 1, 1/2.   A = 1/2 and -1/2 of two tokens each
    WorkedExample(
        settings={"scale": "none", "loss": {"ratio": "sequence", "clip_low": 0.6, "clip_high": 0.25}},
        batch={"reward": (1.0, 0.0), "old_logprobs": ((log(1 / 2), log(1 / 2)), (log(1 / 2), log(1 / 2)))},
        outputs={"logprobs": ((log(0.72), log(1 / 2)), (log(1 / 8), log(1 / 2)))},
        advantages=(0.5, -0.5),
        loss={"policy": (-1.2 / 2 + 0.5 / 2) / 2},
    ),
    # CISPO: ratios 2, which is capped at 3/2, and 1/2, both held constant.   k2 of d = log 2 and 0
    WorkedExample(
        settings={
            "scale": "none",
            "loss": {"surrogate": "cispo", "clip_high": 0.5, "kl": "loss", "kl_weight": 0.5, "kl_estimator": "k2"},
        },
        batch={
            "reward": (1.0, 0.0),
            "old_logprobs": ((log(1 / 4),), (log(1 / 2),)),
            "ref_logprobs": ((log(1 / 4),), (log(1 / 4),)),
        },
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 4),))},
        advantages=(0.5, -0.5),
        loss={"policy": (1.5 / 2 * log(2) + 0.5 * log(2) ** 2 / 2 - 0.5 / 2 * 2 * log(2)) / 2},
        gradient={"logprobs": ((-1.5 / 2 / 2 + 0.5 * log(2) / 2,), (0.5 / 2 / 2,))},
    ),
    # SAPO: 2 (rho - 1) = log 3 and 4 (rho - 1) = -log 3, whose sigmoids are 3/4 and 1/4;  4 / tau = 2 and 1
    WorkedExample(
        settings={"scale": "none", "loss": {"surrogate": "sapo", "sapo_temperatures": (2.0, 4.0)}},
        batch={"reward": (1.0, 0.0), "old_logprobs": ((log(1 / 4),), (log(1 / 2),))},
        outputs={"logprobs": ((log((1 + log(3) / 2) / 4),), (log((1 - log(3) / 4) / 2),))},
        advantages=(0.5, -0.5),
        loss={"policy": (-2 / 2 * 3 / 4 + 1 / 2 * 1 / 4) / 2},
    ),
    # R = 1 - log(2) / 2 and 0.   ratio 1, and 4 of A < 0, which counts as 3.   w = 2 is not used
    WorkedExample(
        settings={"scale": "none", "loss": {"clip_dual": 3.0, "kl": "reward", "kl_weight": 0.5, "correction": "none"}},
        batch={
            "reward": (1.0, 0.0),
            "sampler_logprobs": ((log(1 / 4),), (log(1 / 16),)),
            "old_logprobs": ((log(1 / 2),), (log(1 / 16),)),
            "ref_logprobs": ((log(1 / 4),), (log(1 / 16),)),
        },
        outputs={"logprobs": ((log(1 / 2),), (log(1 / 4),))},
        advantages=(C, -C),
        loss={"policy": (-C + 3 * C) / 2},
    ),
)
